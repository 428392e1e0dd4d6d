-- In the order of the index on these columns, which is that of bytes.
SELECT persistence_id, entity_type, reminder_key, due,
       reminder_ser_id, reminder_ser_manifest, reminder_payload
FROM perennial_reminder
WHERE due BETWEEN $4::timestamptz AND $7::timestamptz
  AND (due > $4::timestamptz
       OR (persistence_id COLLATE "C", reminder_key COLLATE "C") > ($5::text, $6::text))
  AND slice BETWEEN $1::int AND $2::int
  AND entity_type = ANY($3::text[])
ORDER BY due, persistence_id COLLATE "C", reminder_key COLLATE "C"
LIMIT $8
