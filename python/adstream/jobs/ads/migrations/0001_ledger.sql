-- The ledger of advertisers: append-only, in double entry, in whole minor units of one currency.
--
--   posting    what was asked under an id, and what was decided. Never changed: asked again, this is the answer.
--   entry      the lines of a posting that moved money
--   advertiser, campaign_day    sums over these, kept by triggers; a budget or a balance is decided against them
--
--   DEPOSIT    Dr platform:cash             Cr adv:{id}:available
--   CHARGE     Dr adv:{id}:available        Cr platform:revenue
--   REFUND     Dr platform:revenue          Cr adv:{id}:refunded,
--              Dr adv:{id}:refunded         Cr adv:{id}:available      so its turnover is what was ever refunded
--   CAMPAIGN   no entries: the terms that an event of the campaign set
--   RESUME     no entries: a day has begun, whose budget is not spent yet
--
-- A posting and its lines are one statement (`INSERT … WITH`): triggers at its end see both, so neither can stand alone.

CREATE SCHEMA ads_ledger;
SET LOCAL search_path = ads_ledger, pg_temp;

CREATE TABLE setting (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    exponent int NOT NULL CHECK (exponent BETWEEN 0 AND 2),
    zone text NOT NULL
);
COMMENT ON TABLE setting IS 'ISO 4217, digits of its minor unit, and where days begin unless an advertiser says otherwise';
INSERT INTO setting (currency, exponent, zone) VALUES ('KRW', 0, 'Asia/Seoul');

CREATE TABLE advertiser (
    advertiser_id text PRIMARY KEY,
    zone text,
    available bigint NOT NULL DEFAULT 0 CONSTRAINT no_overdraft CHECK (available >= 0)
);

CREATE TABLE campaign (
    advertiser_id text,
    campaign_id text,
    daily_budget bigint CHECK (daily_budget >= 0),
    terms_at timestamptz,
    terms_id text,
    status text,
    status_at timestamptz,
    status_id text,
    budget_day date,         -- paused for this day's budget,
    budget_price bigint,     --   until so much of it is left
    balance_price bigint,    -- paused until so much is available
    told_at timestamptz,     -- the last change of status that was told; the next one is newer
    PRIMARY KEY (advertiser_id, campaign_id)
);
COMMENT ON TABLE campaign IS 'the terms in force (of the newest event) and why the ledger paused it';

CREATE TABLE campaign_day (
    advertiser_id text,
    campaign_id text,
    day date,
    spend bigint NOT NULL DEFAULT 0 CHECK (spend >= 0),
    alerted int NOT NULL DEFAULT 0,
    PRIMARY KEY (advertiser_id, campaign_id, day)
);

CREATE TABLE posting (
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    id text PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 300),
    hash uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('DEPOSIT', 'CHARGE', 'REFUND', 'CAMPAIGN', 'RESUME')),
    advertiser_id text NOT NULL,
    campaign_id text,
    ref text,
    at timestamptz NOT NULL,
    day date NOT NULL,
    status text NOT NULL CHECK (status IN ('POSTED', 'UNBILLED', 'REJECTED', 'NOTED')),
    reason text,
    requested bigint CHECK (requested >= 0 AND requested < 1000000000000000),
    amount bigint NOT NULL DEFAULT 0 CHECK (amount >= 0),
    balance bigint NOT NULL CHECK (balance >= 0),
    spend bigint,
    budget bigint,
    effects jsonb,
    CONSTRAINT amount_as_decided CHECK (amount = 0 OR (status = 'POSTED' AND kind <> 'CAMPAIGN' AND amount <= requested)),
    CONSTRAINT within_budget CHECK (kind <> 'CHARGE' OR amount = 0 OR budget IS NULL OR spend <= budget),
    CONSTRAINT refund_has_ref CHECK ((kind = 'REFUND') = (ref IS NOT NULL))
);
COMMENT ON COLUMN posting.ref IS 'a refund''s charge';
COMMENT ON COLUMN posting.day IS 'whose budget it belongs to: that of the click, in the advertiser''s zone';
COMMENT ON COLUMN posting.spend IS 'of the campaign on that day, after it';
CREATE INDEX posting_ref ON posting (ref) WHERE kind = 'REFUND';

CREATE TABLE entry (
    posting_seq bigint NOT NULL,   -- of a posting: checked for all lines of a statement at once by `entry_checked`
    line smallint NOT NULL,
    account text NOT NULL,
    debit bigint NOT NULL CHECK (debit >= 0),
    credit bigint NOT NULL CHECK (credit >= 0),
    CONSTRAINT one_side CHECK (debit = 0 OR credit = 0),
    PRIMARY KEY (posting_seq, line)
);

CREATE TABLE conflict (
    id text,
    hash uuid,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, hash)
);
COMMENT ON TABLE conflict IS 'asked under an id that stands for something else';

CREATE TABLE parked (
    id text PRIMARY KEY,
    hash uuid NOT NULL,
    advertiser_id text NOT NULL,
    campaign_id text,
    ref text NOT NULL,
    at timestamptz NOT NULL,
    requested bigint NOT NULL CHECK (requested >= 0),
    since timestamptz NOT NULL
);
CREATE INDEX parked_ref ON parked (ref);
COMMENT ON TABLE parked IS 'refunds whose charge was not there; open as long as there is no posting of the id';

CREATE TABLE parked_release (
    id text NOT NULL REFERENCES parked (id),
    at timestamptz NOT NULL,
    by text NOT NULL,
    PRIMARY KEY (id, at)
);

-- Nothing is ever changed: not by the owner, either.

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of %: the ledger is append-only; correct it with a new posting', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON posting EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entry EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON conflict EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON parked EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON parked_release EXECUTE FUNCTION refuse_change();

CREATE FUNCTION currency_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM ads_ledger.posting) THEN
        RAISE EXCEPTION 'there are postings: a ledger keeps its currency and its zone' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER currency_stays AFTER UPDATE OR DELETE ON setting EXECUTE FUNCTION currency_stays();

-- Whose line of a posting it is; odd ones are debits, even ones credits. No such line: null.
CREATE FUNCTION account_of(kind text, line int, advertiser_id text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN $1 = 'CHARGE' AND $2 = 1 OR $1 = 'DEPOSIT' AND $2 = 2 OR $1 = 'REFUND' AND $2 = 4 THEN 'adv:' || $3 || ':available'
        WHEN $1 = 'CHARGE' AND $2 = 2 OR $1 = 'REFUND' AND $2 = 1 THEN 'platform:revenue'
        WHEN $1 = 'DEPOSIT' AND $2 = 1 THEN 'platform:cash'
        WHEN $1 = 'REFUND' AND $2 IN (2, 3) THEN 'adv:' || $3 || ':refunded'
    END
$$;

CREATE FUNCTION entry_checked() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = ads_ledger, pg_temp AS $$
DECLARE
    wrong bigint;
BEGIN
    SELECT posting_seq INTO wrong FROM fresh GROUP BY posting_seq HAVING sum(debit) <> sum(credit) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'unbalanced: debits are not credits in posting %', wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'balanced';
    END IF;
    SELECT f.posting_seq INTO wrong
    FROM fresh f LEFT JOIN posting p ON p.seq = f.posting_seq
    WHERE p.status IS DISTINCT FROM 'POSTED' OR f.account IS DISTINCT FROM account_of(p.kind, f.line, p.advertiser_id)
        OR f.debit <> CASE WHEN f.line IN (1, 3) THEN p.amount ELSE 0 END
        OR f.credit <> CASE WHEN f.line IN (2, 4) THEN p.amount ELSE 0 END
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the entries are not those of posting %', wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entries_of_posting';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER entry_checked AFTER INSERT ON entry REFERENCING NEW TABLE AS fresh EXECUTE FUNCTION entry_checked();

CREATE FUNCTION posting_checked() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = ads_ledger, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    SELECT p.id INTO wrong FROM fresh p
    WHERE p.status = 'POSTED' AND p.kind <> 'CAMPAIGN'
        AND (SELECT count(*) FROM entry e WHERE e.posting_seq = p.seq) <> CASE p.kind WHEN 'REFUND' THEN 4 ELSE 2 END
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'posting % has not its entries', wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'posting_has_entries';
    END IF;
    -- Money of an advertiser who has no row would be lost to the sums.
    SELECT p.id INTO wrong FROM fresh p WHERE NOT EXISTS (SELECT FROM advertiser a WHERE a.advertiser_id = p.advertiser_id) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'posting % is of an unknown advertiser', wrong
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'posting_of_advertiser';
    END IF;
    IF EXISTS (SELECT FROM fresh WHERE kind = 'REFUND') THEN
        SELECT f.id INTO wrong
        FROM fresh f LEFT JOIN posting c ON c.id = f.ref AND c.kind = 'CHARGE'
        WHERE f.kind = 'REFUND' AND f.amount > 0 AND (
            (c.advertiser_id, c.campaign_id, c.day) IS DISTINCT FROM (f.advertiser_id, f.campaign_id, f.day)
            OR (SELECT sum(r.amount) FROM posting r WHERE r.kind = 'REFUND' AND r.ref = f.ref) > c.amount
        ) LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'refund % is more than what is left of its charge', wrong
                USING ERRCODE = 'check_violation', CONSTRAINT = 'refund_within_charge';
        END IF;
    END IF;
    UPDATE advertiser a SET available = a.available + d.sum
    FROM (
        SELECT advertiser_id, sum(CASE kind WHEN 'CHARGE' THEN -amount ELSE amount END) AS sum
        FROM fresh WHERE amount > 0 GROUP BY advertiser_id
    ) d
    WHERE a.advertiser_id = d.advertiser_id;
    INSERT INTO campaign_day (advertiser_id, campaign_id, day)
    SELECT DISTINCT advertiser_id, coalesce(campaign_id, ''), day FROM fresh WHERE kind = 'CHARGE' AND amount > 0
    ON CONFLICT DO NOTHING;
    UPDATE campaign_day d SET spend = d.spend + f.sum
    FROM (
        SELECT advertiser_id, coalesce(campaign_id, '') AS campaign_id, day,
            sum(CASE kind WHEN 'CHARGE' THEN amount ELSE -amount END) AS sum
        FROM fresh WHERE kind IN ('CHARGE', 'REFUND') AND amount > 0 GROUP BY 1, 2, 3
    ) f
    WHERE d.advertiser_id = f.advertiser_id AND d.campaign_id = f.campaign_id AND d.day = f.day;
    RETURN NULL;
END $$;
CREATE TRIGGER posting_checked AFTER INSERT ON posting REFERENCING NEW TABLE AS fresh EXECUTE FUNCTION posting_checked();

CREATE VIEW account AS
    SELECT account, sum(debit) AS debits, sum(credit) AS credits, sum(credit) - sum(debit) AS balance
    FROM entry GROUP BY account;
COMMENT ON VIEW account IS 'every account from its entries; credit-normal, so platform:cash is negative';
