CREATE TABLE IF NOT EXISTS perennial_migration (
    version INT PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    applied_at timestamp with time zone NOT NULL
)
