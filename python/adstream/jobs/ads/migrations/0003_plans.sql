-- Plans are kept for a session, and the first ones are made while the ledger is empty: to read all of `posting` and compare is the
-- cheapest then, and was done with each batch, whatever `posting` had become, until the server looked at its tables again. What
-- decides looks up what it was asked for, by index: that is right for any size. (Refunds go one by one: an index leads to each
-- version that a transaction has made of a row, so they may read small tables whole.)

ALTER FUNCTION ads_ledger.post(text[], text[], text[], text[], timestamptz[], numeric[], text[]) SET enable_seqscan = off;
ALTER FUNCTION ads_ledger.refund(text[], text[], text[], text[], timestamptz[], numeric[])
    SET enable_hashjoin = off SET enable_mergejoin = off;
ALTER FUNCTION ads_ledger.release(text, text) SET enable_hashjoin = off SET enable_mergejoin = off;
