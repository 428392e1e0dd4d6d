SELECT pg_relation_size(to_regclass('event_journal'))
