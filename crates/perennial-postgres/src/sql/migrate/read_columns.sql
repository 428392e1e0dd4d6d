SELECT wanted.table_name,
       a.attname::text,
       format_type(a.atttypid, a.atttypmod),
       a.attnotnull,
       a.atthasdef OR a.attidentity <> ''
FROM unnest($1::text[]) AS wanted (table_name)
JOIN pg_attribute AS a ON a.attrelid = to_regclass(wanted.table_name)
WHERE a.attnum > 0 AND NOT a.attisdropped
