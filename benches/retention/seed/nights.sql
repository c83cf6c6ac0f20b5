-- bench.seed.nights
-- The organizations alone, whom a day's rows are made for later, on other connections.
CREATE SCHEMA bench;
CREATE TABLE bench.orgs AS SELECT * FROM bench_orgs;
CREATE TABLE bench.envs AS SELECT * FROM bench_envs;
