-- These tables and their rows belong to the main app: stepping back takes nothing from it.
SELECT 1;
