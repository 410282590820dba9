"""The database: connections, models, migrations, locks; SQLite, PostgreSQL and MySQL behind the same names."""
