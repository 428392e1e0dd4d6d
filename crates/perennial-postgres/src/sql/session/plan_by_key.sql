-- Settings of the connections on which the store's own statements run.
--
-- Each of these finds its rows by key, which is right for tables of any size. A plan is made for the
-- table as it is then, often an empty one, and kept: without these settings it may read through the
-- whole table when that has grown, until statistics are gathered anew. A plan serves all parameters,
-- so that a small batch is not planned each time.
--
-- The fence of large batches sees what is committed while their statement runs, which it does at
-- this isolation level only, and the others are counted on to be one snapshot each.
SELECT set_config('enable_seqscan', 'off', false),
       set_config('enable_hashjoin', 'off', false),
       set_config('enable_mergejoin', 'off', false),
       set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('jit', 'off', false),
       set_config('default_transaction_isolation', 'read committed', false)
