"""The durable record in a SQL database: tables, named statements, dialect differences, migrations."""
