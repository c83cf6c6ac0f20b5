-- These tables and their rows belong to the main app, so undoing this migration removes nothing.
SELECT 1;
