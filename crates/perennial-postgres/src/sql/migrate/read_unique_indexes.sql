-- The columns, sorted by name, of every index that refuses a second row with the same values.
SELECT wanted.table_name,
       (SELECT array_agg(a.attname::text ORDER BY a.attname)
        FROM pg_attribute AS a
        WHERE a.attrelid = i.indrelid
          AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
FROM unnest($1::text[]) AS wanted (table_name)
JOIN pg_index AS i ON i.indrelid = to_regclass(wanted.table_name)
WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
