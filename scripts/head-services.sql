-- The job store's role and database, for psql with `password`. Doing it twice changes nothing but the password.
SELECT 'CREATE ROLE kinoray LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'kinoray') \gexec
ALTER ROLE kinoray PASSWORD :'password';
SELECT 'CREATE DATABASE kinoray OWNER kinoray' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'kinoray') \gexec
ALTER SYSTEM SET listen_addresses = '*';
ALTER SYSTEM SET max_connections = 500;
