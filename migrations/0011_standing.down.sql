DROP TABLE IF EXISTS retention.standing;
