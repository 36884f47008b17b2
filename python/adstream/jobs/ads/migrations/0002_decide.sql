-- What decides. `post` and `refund` are put before rows in batches (adstream's `ask_sql`): arrays in, one answer per row in
-- order. Each records what it decides and answers what is recorded.

SET LOCAL search_path = ads_ledger, pg_temp;

-- The time by which parked refunds grow old. Tests hand it in.
CREATE FUNCTION clock() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('ads_ledger.now', true), '')::timestamptz, clock_timestamp())
$$;

-- Minor units. A price with a fraction of one has no exact booking, and is refused.
CREATE FUNCTION minor(amount numeric, exponent int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    units numeric := amount * 10::numeric ^ exponent;  -- 10 ^ 2 is a float
BEGIN
    IF units <> trunc(units) THEN
        RAISE EXCEPTION '% has a fraction of the currency''s minor unit', amount USING ERRCODE = '22003';
    ELSIF amount >= 10000000000000 OR amount < 0 THEN
        RAISE EXCEPTION '% is no amount: negative, or 10^13 and more', amount USING ERRCODE = '22003';
    END IF;
    RETURN units;
END $$;

CREATE FUNCTION major(amount bigint, exponent int) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN $2 = 0 THEN $1::numeric ELSE round($1 / 10::numeric ^ $2, $2) END
$$;

-- The day in a zone. Devices may be a day ahead: a day that has not begun here ends no pause. A minute, for clocks apart.
CREATE FUNCTION today(zone text) RETURNS date LANGUAGE sql STABLE AS $$
    SELECT ((ads_ledger.clock() + interval '1 minute') AT TIME ZONE $1)::date
$$;

-- When a day begins. Where clocks go back at 1 o'clock there are two midnights, of which Postgres takes the second; where they go
-- forward at midnight there is none, and it takes 1 o'clock.
CREATE FUNCTION begins(day date, zone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN ((t - interval '1 hour') AT TIME ZONE $2)::date = $1 THEN t - interval '1 hour' ELSE t END
    FROM (VALUES ($1::timestamp AT TIME ZONE $2)) x (t)
$$;

-- A row of `posting` that is to be.
CREATE TYPE draft AS (
    id text, hash uuid, kind text, advertiser_id text, campaign_id text, ref text, at timestamptz, day date,
    status text, reason text, requested bigint, amount bigint, balance bigint, spend bigint, budget bigint, effects jsonb
);

-- One writer per advertiser. Where there is no row of one yet, none can be locked: who makes it and who found none wait for each other.
CREATE FUNCTION hold(account text[], make boolean) RETURNS void LANGUAGE plpgsql SET search_path = ads_ledger, pg_temp AS $$
BEGIN
    IF make THEN
        INSERT INTO advertiser (advertiser_id) SELECT DISTINCT x FROM unnest(account) x ORDER BY 1 ON CONFLICT DO NOTHING;
    ELSE
        PERFORM FROM unnest(account) x WHERE NOT EXISTS (SELECT FROM advertiser a WHERE a.advertiser_id = x);
    END IF;
    IF FOUND THEN
        PERFORM pg_advisory_xact_lock('ads_ledger.advertiser'::regclass::oid::bigint);
    END IF;
    PERFORM FROM advertiser a WHERE a.advertiser_id = ANY (account) ORDER BY a.advertiser_id FOR UPDATE;
END $$;

CREATE FUNCTION book(drafts draft[]) RETURNS void LANGUAGE sql SET search_path = ads_ledger, pg_temp AS $$
    WITH p AS (
        INSERT INTO posting (id, hash, kind, advertiser_id, campaign_id, ref, at, day, status, reason, requested, amount,
                             balance, spend, budget, effects)
        SELECT d.* FROM unnest(drafts) d
        RETURNING seq, kind, advertiser_id, amount, status
    )
    INSERT INTO entry (posting_seq, line, account, debit, credit)
    SELECT p.seq, line, account_of(p.kind, line, p.advertiser_id), CASE WHEN line IN (1, 3) THEN p.amount ELSE 0 END,
        CASE WHEN line IN (2, 4) THEN p.amount ELSE 0 END
    FROM p JOIN (VALUES (1), (2), (3), (4)) l (line) ON line <= CASE p.kind WHEN 'REFUND' THEN 4 ELSE 2 END
    WHERE p.status = 'POSTED'
$$;

CREATE FUNCTION status_changed(at timestamptz, advertiser_id text, campaign_id text, status text, reason text)
RETURNS jsonb LANGUAGE plpgsql SET search_path = ads_ledger, pg_temp AS $$
DECLARE
    told timestamptz := at;
BEGIN
    -- Who reads it takes the newest, and a refund or a deposit may be older than the pause that it ends.
    UPDATE campaign k SET told_at = greatest($1, k.told_at + interval '1 millisecond')
    WHERE (k.advertiser_id, k.campaign_id) = ($2, $3) RETURNING k.told_at INTO told;
    RETURN jsonb_build_object('effect', 'STATUS', 'at', to_char(told AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'campaign_id', $3, 'status', $4, 'reason', $5);
END $$;

-- Lifts the pauses of an advertiser's campaigns whose reason is gone; what became active, as effects. `day`: a budget's pause is
-- over when a later day has begun.
CREATE FUNCTION lift(advertiser text, at timestamptz, today date) RETURNS jsonb
LANGUAGE plpgsql SET search_path = ads_ledger, pg_temp AS $$
DECLARE
    c record;
    active jsonb := '[]';
    by_budget boolean;
    by_balance boolean;
BEGIN
    FOR c IN
        SELECT k.*, a.available, coalesce(d.spend, 0) AS spend
        FROM campaign k JOIN advertiser a USING (advertiser_id)
            LEFT JOIN campaign_day d ON (d.advertiser_id, d.campaign_id, d.day) = (k.advertiser_id, k.campaign_id, k.budget_day)
        WHERE k.advertiser_id = advertiser AND (k.budget_price IS NOT NULL OR k.balance_price IS NOT NULL)
        ORDER BY k.campaign_id
    LOOP
        by_budget := c.budget_price IS NOT NULL AND today <= c.budget_day
            AND c.daily_budget IS NOT NULL AND c.daily_budget - c.spend < c.budget_price;
        by_balance := c.balance_price IS NOT NULL AND c.available < c.balance_price;
        IF by_budget IS DISTINCT FROM (c.budget_price IS NOT NULL) OR by_balance IS DISTINCT FROM (c.balance_price IS NOT NULL) THEN
            UPDATE campaign k SET budget_price = CASE WHEN by_budget THEN k.budget_price END,
                budget_day = CASE WHEN by_budget THEN k.budget_day END,
                balance_price = CASE WHEN by_balance THEN k.balance_price END
            WHERE (k.advertiser_id, k.campaign_id) = (c.advertiser_id, c.campaign_id);
        END IF;
        IF NOT by_budget AND NOT by_balance THEN
            active := active || status_changed(at, advertiser, c.campaign_id, 'ACTIVE',
                CASE WHEN c.budget_price IS NULL THEN 'BALANCE' ELSE 'BUDGET' END);
        END IF;
    END LOOP;
    RETURN nullif(active, '[]');
END $$;

-- A refund, alone; its advertiser is locked. Returns why there is no posting of it, or null.
CREATE FUNCTION refund_one(id text, hash uuid, ref text, advertiser text, campaign text, at timestamptz, requested bigint)
RETURNS text LANGUAGE plpgsql SET search_path = ads_ledger, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    charge posting;
    remaining bigint;
    reason text;
    amount bigint;
    available bigint;
    spent bigint;
    effects jsonb;
    today date;
BEGIN
    SELECT p.* INTO charge FROM posting p WHERE p.id = ref AND p.kind = 'CHARGE';
    SELECT a.available, today(coalesce(a.zone, s.zone)) INTO available, today
    FROM advertiser a, setting s WHERE a.advertiser_id = advertiser;
    IF charge.id IS NULL THEN  -- of an advertiser whom nobody knows, too: the topics do not wait for each other
        INSERT INTO parked VALUES (id, hash, advertiser, campaign, ref, at, requested, clock()) ON CONFLICT DO NOTHING;
        RETURN CASE WHEN available IS NULL THEN 'UNKNOWN_ADVERTISER' ELSE 'PARKED' END;
    ELSIF available IS NULL THEN  -- and the charge is somebody else's
        RETURN 'UNKNOWN_ADVERTISER';
    END IF;
    IF charge.advertiser_id <> advertiser THEN
        reason := 'OTHER_ADVERTISER';
        amount := 0;
    ELSE
        SELECT charge.amount - coalesce(sum(p.amount), 0) INTO remaining FROM posting p WHERE p.kind = 'REFUND' AND p.ref = ref;
        amount := least(requested, remaining);
        reason := CASE WHEN requested = 0 OR amount > 0 THEN NULL WHEN charge.status <> 'POSTED' THEN 'UNBILLED'
            ELSE 'ALREADY_REFUNDED' END;
    END IF;
    SELECT d.spend INTO spent FROM campaign_day d
    WHERE (d.advertiser_id, d.campaign_id, d.day) = (charge.advertiser_id, coalesce(charge.campaign_id, ''), charge.day);
    -- The pauses are looked at before it is booked, as if it were: the posting is to say what follows from it. Where there are none the
    -- rows are left alone: what a transaction has changed n times takes it n steps to read.
    IF amount > 0 AND EXISTS (SELECT FROM campaign k WHERE k.advertiser_id = advertiser
        AND (k.budget_price IS NOT NULL OR k.balance_price IS NOT NULL)) THEN
        UPDATE advertiser a SET available = a.available + amount WHERE a.advertiser_id = advertiser;
        UPDATE campaign_day d SET spend = d.spend - amount
        WHERE (d.advertiser_id, d.campaign_id, d.day) = (charge.advertiser_id, coalesce(charge.campaign_id, ''), charge.day);
        effects := lift(advertiser, at, least(charge.day, today));
        UPDATE advertiser a SET available = a.available - amount WHERE a.advertiser_id = advertiser;
        UPDATE campaign_day d SET spend = d.spend + amount
        WHERE (d.advertiser_id, d.campaign_id, d.day) = (charge.advertiser_id, coalesce(charge.campaign_id, ''), charge.day);
    END IF;
    PERFORM book(ARRAY[ROW(id, hash, 'REFUND', advertiser, CASE WHEN reason = 'OTHER_ADVERTISER' THEN campaign ELSE charge.campaign_id END,
        ref, at, charge.day, CASE WHEN reason IS NULL THEN 'POSTED' ELSE 'REJECTED' END, reason, requested, amount,
        available + amount, coalesce(spent, 0) - amount, NULL, effects)::draft]);
    RETURN NULL;
END $$;

CREATE FUNCTION hashed(VARIADIC parts text[]) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT md5(parts::text)::uuid $$;

-- The alerts that a campaign's day has come to since the last one, as effects.
CREATE FUNCTION crossed(at timestamptz, campaign text, day date, spend bigint, budget bigint, alerted int) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_agg(jsonb_build_object('effect', 'ALERT', 'at', to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'campaign_id', $2, 'day', $3, 'threshold', t, 'spend', $4, 'budget', $5) ORDER BY t)
    FROM unnest(ARRAY[50, 80, 100]) t WHERE t > $6 AND $5 > 0 AND $4 * 100 >= $5 * t
$$;

-- Pauses a campaign, if it is not for this reason already, or for the budget of a day before; the effect, if it was active. A pause
-- for a day's budget is looked at again when the next day begins: nobody may click on what nobody is shown.
CREATE FUNCTION pause(at timestamptz, advertiser text, campaign text, reason text, price bigint, day date) RETURNS jsonb
LANGUAGE plpgsql SET search_path = ads_ledger, pg_temp AS $$
DECLARE
    before campaign;
    again jsonb;
BEGIN
    SELECT k.* INTO before FROM campaign k WHERE k.advertiser_id = advertiser AND k.campaign_id = campaign;
    IF reason = 'BALANCE' AND before.balance_price IS NULL THEN
        UPDATE campaign k SET balance_price = price WHERE k.advertiser_id = advertiser AND k.campaign_id = campaign;
    ELSIF reason = 'BUDGET' AND (before.budget_price IS NULL OR before.budget_day < day) THEN
        UPDATE campaign k SET budget_price = price, budget_day = day
        WHERE k.advertiser_id = advertiser AND k.campaign_id = campaign;
        SELECT jsonb_build_array(jsonb_build_object('effect', 'RESUME', 'campaign_id', campaign, 'day', day, 'at',
            to_char(begins(day + 1, coalesce(a.zone, s.zone)) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')))
        INTO again FROM setting s, advertiser a WHERE a.advertiser_id = advertiser;
    END IF;
    RETURN nullif(CASE WHEN before.budget_price IS NULL AND before.balance_price IS NULL
        THEN jsonb_build_array(status_changed(at, advertiser, campaign, 'PAUSED', reason)) ELSE '[]' END || coalesce(again, '[]'), '[]');
END $$;

-- The newest terms of a campaign; whether these are.
CREATE FUNCTION terms(advertiser text, campaign text, at timestamptz, id text, budget bigint, state text) RETURNS void
LANGUAGE sql SET search_path = ads_ledger, pg_temp AS $$
    UPDATE campaign k SET daily_budget = $5, terms_at = $3, terms_id = $4
    WHERE (k.advertiser_id, k.campaign_id) = ($1, $2) AND $5 IS NOT NULL
        AND (k.terms_at IS NULL OR (k.terms_at, k.terms_id) < ($3, $4));
    UPDATE campaign k SET status = $6, status_at = $3, status_id = $4
    WHERE (k.advertiser_id, k.campaign_id) = ($1, $2) AND $6 IS NOT NULL
        AND (k.status_at IS NULL OR (k.status_at, k.status_id) < ($3, $4));
$$;

-- Deposits, charges, terms of campaigns, and days that have begun, in the order in which they come.
CREATE FUNCTION post(
    id text[], type text[], account text[], campaign text[], at timestamptz[], sum numeric[], state text[]
) RETURNS TABLE (
    posting_id text, kind text, advertiser_id text, campaign_id text, "timestamp" timestamptz, day text, status text, reason text,
    requested numeric, amount numeric, balance numeric, spend numeric, budget numeric, effects text
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = ads_ledger, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
    s setting;
    r record;
    p record;
    hashes uuid[];
    minors bigint[];
    drafts draft[] := '{}';
    i int := 0;
    -- By number of the advertiser (a), the campaign (k), the campaign's day (c) in this batch:
    available bigint[];
    paused boolean[];           -- a: some campaign is
    looked date[];              -- a: pauses were lifted as of this day
    budgets bigint[];           -- k
    stopped timestamptz[];      -- k: by an event of its own; clicks from then on are not charged
    newest date[];              -- k: of its days
    spent bigint[];             -- c
    alerted int[];              -- c: the last threshold; null: to be looked up
    why text;
    take bigint;
    follows jsonb;
    more jsonb;
BEGIN
    SELECT * INTO s FROM setting;
    SELECT array_agg(minor(x.amount, s.exponent) ORDER BY x.o),
        array_agg(hashed(x.kind, x.adv, x.campaign, extract(epoch FROM x.at)::text, trim_scale(x.amount)::text, x.state)
            ORDER BY x.o)
    INTO minors, hashes
    FROM unnest($2, $3, $4, $5, $6, $7) WITH ORDINALITY x (kind, adv, campaign, at, amount, state, o);

    PERFORM hold($3, true);
    INSERT INTO campaign (advertiser_id, campaign_id)
    SELECT DISTINCT u.x, coalesce(u.y, '') FROM unnest($3, $4, $2) u (x, y, z) WHERE u.z <> 'DEPOSIT' ORDER BY 1, 2
    ON CONFLICT DO NOTHING;

    FOR r IN
        WITH asked AS (
            SELECT DISTINCT ON (x.id) x.*, coalesce(x.campaign, '') AS camp, a.available,
                (x.at AT TIME ZONE coalesce(a.zone, s.zone))::date AS day, today(coalesce(a.zone, s.zone)) AS today
            FROM unnest($1, $2, $3, $4, $5, minors, $7, hashes) WITH ORDINALITY
                    x (id, kind, adv, campaign, at, price, state, hash, o)
                JOIN advertiser a ON a.advertiser_id = x.adv
            WHERE NOT EXISTS (SELECT FROM posting p WHERE p.id = x.id)
            ORDER BY x.id, x.o
        ), numbered AS (
            SELECT q.*, dense_rank() OVER (ORDER BY q.adv)::int AS a, dense_rank() OVER (ORDER BY q.adv, q.camp)::int AS k,
                dense_rank() OVER (ORDER BY q.adv, q.camp, q.day)::int AS c
            FROM asked q
        )
        SELECT q.*, k.daily_budget, CASE WHEN k.status IN ('PAUSED', 'DELETED') THEN k.status_at END AS stopped_at,
            d.spend
        FROM numbered q
            LEFT JOIN campaign k ON k.advertiser_id = q.adv AND k.campaign_id = q.camp
            LEFT JOIN campaign_day d ON d.advertiser_id = q.adv AND d.campaign_id = q.camp AND d.day = q.day
        ORDER BY q.o
    LOOP
        IF available[r.a] IS NULL THEN
            available[r.a] := r.available;
            paused[r.a] := EXISTS (SELECT FROM campaign k WHERE k.advertiser_id = r.adv
                AND (k.balance_price IS NOT NULL OR k.budget_price IS NOT NULL));
        END IF;
        IF newest[r.k] IS NULL THEN
            budgets[r.k] := r.daily_budget;
            stopped[r.k] := r.stopped_at;
            newest[r.k] := coalesce((SELECT max(z.day) FROM campaign_day z
                WHERE z.advertiser_id = r.adv AND z.campaign_id = r.camp AND z.day <= r.today), '-infinity');
        END IF;
        IF spent[r.c] IS NULL THEN
            spent[r.c] := coalesce(r.spend, 0);
        END IF;
        why := NULL;
        take := 0;
        follows := NULL;
        IF paused[r.a] AND (looked[r.a] IS NULL OR looked[r.a] < r.day) AND r.day <= r.today  -- a day may have begun
            AND r.kind = 'CHARGE' THEN
            PERFORM book(drafts);
            drafts := '{}';
            i := 0;
            follows := lift(r.adv, r.at, r.day);
            looked[r.a] := r.day;
        END IF;
        IF r.kind = 'CHARGE' THEN
            newest[r.k] := greatest(newest[r.k], CASE WHEN r.day <= r.today THEN r.day END);
            IF stopped[r.k] <= r.at THEN
                why := 'NOT_ACTIVE';
            ELSIF spent[r.c] + r.price > budgets[r.k] THEN
                why := 'OVER_BUDGET';
                IF r.day BETWEEN newest[r.k] AND r.today THEN
                    more := pause(r.at, r.adv, r.camp, 'BUDGET', r.price, r.day);
                    paused[r.a] := true;
                    follows := coalesce(follows || more, more, follows);
                END IF;
            ELSIF r.price > available[r.a] THEN
                why := 'NO_BALANCE';
                more := pause(r.at, r.adv, r.camp, 'BALANCE', r.price, r.day);
                paused[r.a] := true;
                follows := coalesce(follows || more, more, follows);
            ELSE
                take := r.price;
                available[r.a] := available[r.a] - take;
                spent[r.c] := spent[r.c] + take;
            END IF;
            IF take > 0 AND budgets[r.k] > 0 AND coalesce(alerted[r.c], 0) < 100 AND spent[r.c] * 2 >= budgets[r.k] THEN
                IF alerted[r.c] IS NULL THEN
                    alerted[r.c] := coalesce((SELECT z.alerted FROM campaign_day z
                        WHERE z.advertiser_id = r.adv AND z.campaign_id = r.camp AND z.day = r.day), 0);
                END IF;
                more := crossed(r.at, r.camp, r.day, spent[r.c], budgets[r.k], alerted[r.c]);
                IF more IS NOT NULL THEN
                    follows := coalesce(follows || more, more);
                    alerted[r.c] := (more -> -1 ->> 'threshold')::int;
                    INSERT INTO campaign_day AS z (advertiser_id, campaign_id, day, alerted) VALUES (r.adv, r.camp, r.day, alerted[r.c])
                    ON CONFLICT (advertiser_id, campaign_id, day) DO UPDATE SET alerted = EXCLUDED.alerted;
                END IF;
            END IF;
            IF take > 0 AND spent[r.c] = budgets[r.k] AND r.day BETWEEN newest[r.k] AND r.today THEN
                more := pause(r.at, r.adv, r.camp, 'BUDGET', r.price, r.day);
                paused[r.a] := true;
                follows := coalesce(follows || more, more, follows);
            END IF;
        ELSIF r.kind = 'DEPOSIT' THEN
            take := r.price;
            IF paused[r.a] THEN  -- what follows is looked up in the tables: they are to be as far as we are
                PERFORM book(drafts);
                drafts := '{}';
                i := 0;
                UPDATE advertiser z SET available = z.available + take WHERE z.advertiser_id = r.adv;
                follows := lift(r.adv, r.at, '-infinity');
                UPDATE advertiser z SET available = z.available - take WHERE z.advertiser_id = r.adv;
            END IF;
            available[r.a] := available[r.a] + take;
        ELSIF r.kind = 'RESUME' THEN  -- by the clock of who asks: it has waited for the end of the day `state`, in the zone of then
            PERFORM book(drafts);
            drafts := '{}';
            i := 0;
            follows := lift(r.adv, r.at, greatest(r.day, r.state::date + 1));
        ELSE
            PERFORM book(drafts);
            drafts := '{}';
            i := 0;
            PERFORM terms(r.adv, r.camp, r.at, r.id, r.price, r.state);
            SELECT k.daily_budget, CASE WHEN k.status IN ('PAUSED', 'DELETED') THEN k.status_at END AS stopped_at
            INTO p FROM campaign k WHERE k.advertiser_id = r.adv AND k.campaign_id = r.camp;
            budgets[r.k] := p.daily_budget;
            stopped[r.k] := p.stopped_at;
            follows := lift(r.adv, r.at, least(r.day, r.today));
            -- Of the newest day that it has: what has been spent may be more than what may be, from now on.
            SELECT z.day, z.spend, z.alerted INTO p FROM campaign_day z
            WHERE z.advertiser_id = r.adv AND z.campaign_id = r.camp AND z.day BETWEEN least(r.day, r.today) AND r.today
            ORDER BY z.day DESC LIMIT 1;
            more := crossed(r.at, r.camp, p.day, p.spend, budgets[r.k], p.alerted);
            IF more IS NOT NULL THEN
                follows := coalesce(follows || more, more);
                UPDATE campaign_day z SET alerted = (more -> -1 ->> 'threshold')::int
                WHERE z.advertiser_id = r.adv AND z.campaign_id = r.camp AND z.day = p.day;
                alerted := '{}';
            END IF;
            IF p.spend > 0 AND p.spend >= budgets[r.k] THEN
                more := pause(r.at, r.adv, r.camp, 'BUDGET', 1, p.day);
                paused[r.a] := true;
                follows := coalesce(follows || more, more, follows);
            END IF;
        END IF;
        i := i + 1;
        drafts[i] := ROW(r.id, r.hash, r.kind, r.adv, r.campaign, NULL, r.at, r.day,
            CASE WHEN why IS NOT NULL THEN 'UNBILLED' WHEN r.kind IN ('CAMPAIGN', 'RESUME') THEN 'NOTED' ELSE 'POSTED' END,
            why, r.price, take, available[r.a], spent[r.c], budgets[r.k], follows)::draft;
    END LOOP;
    PERFORM book(drafts);

    -- Refunds that waited for one of these charges.
    FOR r IN
        SELECT w.* FROM waiting w WHERE w.ref = ANY ($1) AND w.state = 'WAITING' ORDER BY w.since, w.id
    LOOP
        PERFORM refund_one(r.id, r.hash, r.ref, r.advertiser_id, r.campaign_id, r.at, r.requested);
    END LOOP;

    INSERT INTO conflict (id, hash)
    SELECT DISTINCT x.id, x.hash FROM unnest($1, hashes) x (id, hash) JOIN posting p ON p.id = x.id WHERE p.hash <> x.hash
    ON CONFLICT DO NOTHING;

    RETURN QUERY
    SELECT p.id, p.kind, p.advertiser_id, p.campaign_id, p.at, p.day::text,
        CASE WHEN p.hash = x.hash THEN p.status ELSE 'IDEMPOTENCY_CONFLICT' END, p.reason,
        major(p.requested, s.exponent), major(p.amount, s.exponent), major(p.balance, s.exponent), major(p.spend, s.exponent),
        major(p.budget, s.exponent),
        CASE WHEN p.hash = x.hash THEN coalesce(p.effects || released.effects, released.effects, p.effects)::text END
    FROM unnest($1, hashes) WITH ORDINALITY x (id, hash, o) JOIN posting p ON p.id = x.id
        LEFT JOIN LATERAL (
            SELECT jsonb_agg(jsonb_build_object('effect', 'REFUND', 'refund_id', w.id, 'event_id', substr(w.ref, 7),
                'campaign_id', w.campaign_id, 'refund_amount', major(w.requested, s.exponent)::text,
                'at', to_char(w.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) ORDER BY w.id) AS effects
            FROM parked w WHERE w.ref = p.id AND EXISTS (SELECT FROM posting y WHERE y.id = w.id)
        ) released ON p.kind = 'CHARGE'
    ORDER BY x.o;
END $$;

-- Refunds. Those whose charge is not there wait for it.
CREATE FUNCTION refund(id text[], charge text[], account text[], campaign text[], at timestamptz[], sum numeric[])
RETURNS TABLE (
    refund_id text, charge_id text, advertiser_id text, campaign_id text, "timestamp" timestamptz, click_time timestamptz,
    day text, status text, reason text, requested numeric, amount numeric, balance numeric, spend numeric, effects text
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = ads_ledger, pg_temp AS $$
#variable_conflict use_column
DECLARE
    s setting;
    r record;
    held record;
    hashes uuid[];
    minors bigint[];
    whys text[];
BEGIN
    SELECT * INTO s FROM setting;
    SELECT array_agg(minor(x.amount, s.exponent) ORDER BY x.o),
        array_agg(hashed('REFUND', x.ref, x.adv, extract(epoch FROM x.at)::text, trim_scale(x.amount)::text) ORDER BY x.o)
    INTO minors, hashes
    FROM unnest($2, $3, $5, $6) WITH ORDINALITY x (ref, adv, at, amount, o);
    whys := array_fill(NULL::text, ARRAY[cardinality($1)]);
    PERFORM hold($3, false);

    -- Nearly all are the only refund of their charge, of an advertiser without a paused campaign: these need no look at one another.
    PERFORM book(array_agg(ROW(q.id, q.hash, 'REFUND', q.adv, q.campaign_id, q.ref, q.at, q.day,
        CASE WHEN q.reason IS NULL THEN 'POSTED' ELSE 'REJECTED' END, q.reason, q.price, q.take, q.balance, q.spent, NULL, NULL)::draft
        ORDER BY q.o))
    FROM (
        SELECT f.*, a.available + sum(f.take) OVER (PARTITION BY f.adv ORDER BY f.o) AS balance,
            coalesce(d.spend, 0) - sum(f.take) OVER (PARTITION BY f.adv, f.campaign_id, f.day ORDER BY f.o) AS spent
        FROM (
            SELECT x.*, c.campaign_id, c.day, least(x.price, c.amount) AS take,
                CASE WHEN x.price = 0 OR c.amount > 0 THEN NULL WHEN c.status <> 'POSTED' THEN 'UNBILLED'
                    ELSE 'ALREADY_REFUNDED' END AS reason
            FROM (
                SELECT DISTINCT ON (x.id) x.*, count(*) OVER (PARTITION BY x.ref) AS refunds
                FROM unnest($1, $2, $3, $5, minors, hashes) WITH ORDINALITY x (id, ref, adv, at, price, hash, o)
                ORDER BY x.id, x.o
            ) x JOIN posting c ON c.id = x.ref AND c.kind = 'CHARGE' AND c.advertiser_id = x.adv
        ) f
            JOIN advertiser a ON a.advertiser_id = f.adv
            LEFT JOIN campaign_day d ON d.advertiser_id = f.adv AND d.campaign_id = coalesce(f.campaign_id, '') AND d.day = f.day
        WHERE f.refunds = 1 AND NOT EXISTS (SELECT FROM posting p WHERE p.id = f.id)
            AND NOT EXISTS (SELECT FROM parked w WHERE w.id = f.id)
            AND NOT EXISTS (SELECT FROM posting p WHERE p.kind = 'REFUND' AND p.ref = f.ref)
            AND NOT EXISTS (SELECT FROM campaign k WHERE k.advertiser_id = f.adv
                AND (k.budget_price IS NOT NULL OR k.balance_price IS NOT NULL))
    ) q;

    FOR r IN
        SELECT x.* FROM unnest($1, $2, $3, $4, $5, minors, hashes) WITH ORDINALITY x (id, ref, adv, campaign, at, price, hash, o)
        ORDER BY x.o
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM posting p WHERE p.id = r.id);
        SELECT w.* INTO held FROM waiting w WHERE w.id = r.id;
        whys[r.o::int] := CASE WHEN held.hash <> r.hash THEN 'IDEMPOTENCY_CONFLICT' WHEN held.state = 'MANUAL' THEN 'MANUAL'
            ELSE refund_one(r.id, r.hash, r.ref, r.adv, r.campaign, r.at, r.price) END;
    END LOOP;

    INSERT INTO conflict (id, hash)
    SELECT DISTINCT x.id, x.hash
    FROM unnest($1, hashes, whys) x (id, hash, why) LEFT JOIN posting p ON p.id = x.id
    WHERE p.hash <> x.hash OR x.why = 'IDEMPOTENCY_CONFLICT'
    ON CONFLICT DO NOTHING;

    RETURN QUERY
    SELECT x.id, x.ref, x.adv, coalesce(p.campaign_id, x.campaign), x.at, c.at, p.day::text,
        CASE WHEN p.id IS NULL THEN x.why WHEN p.hash <> x.hash THEN 'IDEMPOTENCY_CONFLICT' WHEN p.status = 'POSTED' THEN 'APPLIED'
            ELSE p.status END,
        p.reason, x.amount, major(p.amount, s.exponent), major(p.balance, s.exponent), major(p.spend, s.exponent),
        CASE WHEN p.hash = x.hash THEN p.effects::text END
    FROM unnest($1, $2, $3, $4, $5, $6, hashes, whys) WITH ORDINALITY x (id, ref, adv, campaign, at, amount, hash, why, o)
        LEFT JOIN posting p ON p.id = x.id
        LEFT JOIN posting c ON c.id = p.ref
    ORDER BY x.o;
END $$;

-- Refunds that are parked: WAITING for their charge, or MANUAL when they have done so for 24 hours.
CREATE VIEW waiting AS
    SELECT w.*, CASE WHEN greatest(w.since, l.at) + interval '24 hours' > clock() THEN 'WAITING' ELSE 'MANUAL' END AS state
    FROM parked w LEFT JOIN LATERAL (SELECT max(z.at) AS at FROM parked_release z WHERE z.id = w.id) l ON true
    WHERE NOT EXISTS (SELECT FROM posting p WHERE p.id = w.id);

-- Takes a refund from the manual queue: books it if its charge has come, else it waits for another 24 hours. What became of it.
CREATE FUNCTION release(refund_id text, by text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ads_ledger, pg_temp AS $$
DECLARE
    w record;
    why text;
BEGIN
    SELECT * INTO w FROM waiting z WHERE z.id = $1;
    IF w.id IS NULL THEN
        RETURN 'NOT_PARKED';
    END IF;
    PERFORM hold(ARRAY[w.advertiser_id], false);
    INSERT INTO parked_release (id, at, by) VALUES (w.id, clock(), $2) ON CONFLICT DO NOTHING;
    IF EXISTS (SELECT FROM posting p WHERE p.id = w.id) THEN  -- meanwhile
        RETURN 'BOOKED';
    END IF;
    why := refund_one(w.id, w.hash, w.ref, w.advertiser_id, w.campaign_id, w.at, w.requested);
    RETURN CASE WHEN why IS NULL THEN 'BOOKED' ELSE 'PARKED' END;
END $$;

-- The application: it appends and asks, nothing else.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ads_ledger_app') THEN
        CREATE ROLE ads_ledger_app NOLOGIN;
    END IF;
END $$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ads_ledger FROM PUBLIC;
GRANT USAGE ON SCHEMA ads_ledger TO ads_ledger_app;
GRANT SELECT ON ALL TABLES IN SCHEMA ads_ledger TO ads_ledger_app;
GRANT INSERT ON posting, entry TO ads_ledger_app;
GRANT EXECUTE ON FUNCTION post, refund, release, clock TO ads_ledger_app;
