-- The settings of a new connection. An empty schema leaves the server's search path.
SELECT set_config('lock_timeout', $1, false),
       set_config('statement_timeout', $2, false),
       CASE WHEN $3 = '' THEN '' ELSE set_config('search_path', quote_ident($3), false) END
