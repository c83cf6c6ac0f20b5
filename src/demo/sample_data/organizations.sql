-- demo.sample_data.organizations
-- Forty customers, their environments and their workflows. Nothing is random: hashes of the row's own key give variety,
-- so every load creates the same rows with the same ids.

-- Compiling these statements would take longer than running them.
SET LOCAL jit = off;

-- 0 ≤ result < n
CREATE FUNCTION pg_temp.pick(key text, n int) RETURNS int LANGUAGE sql IMMUTABLE
    RETURN (('x' || left(md5(key), 7))::bit(28)::int) % n;

-- The length of each plan's history. It exceeds the window on purpose, because the product has not purged here yet.
-- In days: drift checks, incidents, and the customer's age.
CREATE TEMP TABLE sample_plans (tier text, check_days int, incident_days int, customer_days int) ON COMMIT DROP;
INSERT INTO sample_plans VALUES
    ('free',        30,  230,  260),
    ('pro',        120,  430,  780),
    ('agency',     200,  860,  950),
    ('enterprise', 400, 3150, 3300),
    ('legacy',     150,  700, 2600);

-- `plan` is the spelling that the main app wrote over the years; `tier` is its meaning.
CREATE TEMP TABLE sample_organizations (
    n int PRIMARY KEY, id uuid, slug text, name text, plan text, tier text, environments int) ON COMMIT DROP;
INSERT INTO sample_organizations
SELECT n, md5('organization ' || slug)::uuid, slug, name, plan, tier, environments
FROM (VALUES
    ( 1, 'brightkiln',        'Brightkiln Ceramics',          'free',        'free',       2),
    ( 2, 'pocketledger',      'Pocketledger',                 'free',        'free',       2),
    ( 3, 'juniper-and-rye',   'Juniper & Rye Bakery',         'free',        'free',       2),
    ( 4, 'tidewater-kayaks',  'Tidewater Kayak Rentals',      'free',        'free',       2),
    ( 5, 'solstice-yoga',     'Solstice Yoga Collective',     'free',        'free',       2),
    ( 6, 'marlowe-dunn',      'Marlowe Dunn Architects',      'free',        'free',       3),
    ( 7, 'opengrove',         'OpenGrove Community Gardens',  'free',        'free',       2),
    ( 8, 'finchley-audio',    'Finchley Audio',               'free',        'free',       3),
    ( 9, 'northpass',         'Northpass Logistics',          'pro',         'pro',        4),
    (10, 'cobalt-dental',     'Cobalt Dental Group',          'pro',         'pro',        3),
    (11, 'hearthline',        'Hearthline Home Insurance',    'pro',         'pro',        3),
    (12, 'verdant-freight',   'Verdant Freight',              'Pro ',        'pro',        3),
    (13, 'quillstack',        'Quillstack',                   'pro',         'pro',        4),
    (14, 'larkspur-travel',   'Larkspur Travel',              'pro',         'pro',        3),
    (15, 'mosaic-learning',   'Mosaic Learning',              'pro',         'pro',        3),
    (16, 'tallgrass',         'Tallgrass Energy Services',    'Pro ',        'pro',        3),
    (17, 'bluefern-health',   'Bluefern Health',              'pro',         'pro',        4),
    (18, 'oakhaven-supply',   'Oakhaven Restaurant Supply',   'pro',         'pro',        2),
    (19, 'parcelwise',        'Parcelwise',                   'pro',         'pro',        3),
    (20, 'redbrick-realty',   'Redbrick Realty Partners',     'pro',         'pro',        2),
    (21, 'sablefield',        'Sablefield Recruiting',        'pro',         'pro',        3),
    (22, 'wavecrest-studio',  'Wavecrest Studio',             'pro',         'pro',        2),
    (23, 'automata-north',    'Automata North',               'agency',      'agency',     5),
    (24, 'flowsmiths',        'The Flowsmiths',               'agency',      'agency',     4),
    (25, 'kestrel-digital',   'Kestrel Digital',              'agency+',     'agency',     4),
    (26, 'lumen-and-loop',    'Lumen & Loop',                 'agency_plus', 'agency',     4),
    (27, 'papertrail-ops',    'Papertrail Ops',               'agency',      'agency',     3),
    (28, 'silverbirch',       'Silverbirch Automation',       'agency+',     'agency',     5),
    (29, 'tandem-works',      'Tandem Works',                 'agency',      'agency',     3),
    (30, 'violet-hour',       'Violet Hour Consulting',       'agency_plus', 'agency',     4),
    (31, 'zephyr-integrations', 'Zephyr Integrations',        'agency',      'agency',     3),
    (32, 'aldergate-bank',    'Aldergate Bank',               'Enterprise',  'enterprise', 5),
    (33, 'corvane-pharma',    'Corvane Pharmaceuticals',      'enterprise',  'enterprise', 4),
    (34, 'halden-rail',       'Halden Rail Systems',          'enterprise',  'enterprise', 4),
    (35, 'meridian-grid',     'Meridian Grid Utilities',      'enterprise',  'enterprise', 4),
    (36, 'ostrava-steel',     'Ostrava Steelworks',           'Enterprise',  'enterprise', 3),
    (37, 'pelican-mutual',    'Pelican Mutual Assurance',     'enterprise',  'enterprise', 4),
    (38, 'stratus-air',       'Stratus Regional Airways',     'enterprise',  'enterprise', 4),
    (39, 'westmark-retail',   'Westmark Retail Holdings',     'enterprise',  'enterprise', 5),
    -- A plan that is no longer sold and has no rule. This customer's purges fail visibly.
    (40, 'hollis-print',      'Hollis Print & Mail',          'legacy-2019', 'legacy',     3)
) AS customer (n, slug, name, plan, tier, environments);

INSERT INTO public.organizations (id, name, plan, created_at)
SELECT o.id, o.name, o.plan, now() - make_interval(days => p.customer_days + pg_temp.pick(o.slug, 40), secs => pg_temp.pick(o.slug, 86400))
FROM sample_organizations o JOIN sample_plans p USING (tier)
ORDER BY o.n;

-- `history`: regular, or one of the special cases that a purge must handle.
CREATE TEMP TABLE sample_environments (
    id uuid PRIMARY KEY, org_n int, position int, name text, history text) ON COMMIT DROP;
INSERT INTO sample_environments
SELECT md5('environment ' || o.slug || '/' || position)::uuid, o.n, position,
       (ARRAY['production', 'staging', 'development', 'qa', 'sandbox'])[position],
       CASE o.slug || '/' || position
           WHEN 'redbrick-realty/2' THEN 'one check, two years old'
           WHEN 'halden-rail/4'     THEN 'one check, two years old'
           WHEN 'northpass/4'       THEN 'two newest checks at once'
           WHEN 'finchley-audio/3'  THEN 'two newest checks at once'
           WHEN 'mosaic-learning/3' THEN 'never checked'
           WHEN 'opengrove/2'       THEN 'never checked'
           WHEN 'kestrel-digital/4' THEN 'paused'
           WHEN 'marlowe-dunn/3'    THEN 'paused'
           WHEN 'quillstack/4'      THEN 'paused'
           ELSE 'regular'
       END
FROM sample_organizations o, generate_series(1, o.environments) AS position;

INSERT INTO public.environments (id, org_id, name, created_at)
SELECT e.id, o.id, e.name, org.created_at + make_interval(mins => 7 * e.position)
FROM sample_environments e
JOIN sample_organizations o ON o.n = e.org_n
JOIN public.organizations org ON org.id = o.id
ORDER BY e.org_n, e.position;

-- Eighteen workflows for every customer, chosen from typical uses of automation.
CREATE TEMP TABLE sample_workflows (
    org_n int, i int, id text, n8n_id text, name text, PRIMARY KEY (org_n, i), UNIQUE (org_n, id)) ON COMMIT DROP;
INSERT INTO sample_workflows
SELECT o.n, i, 'wf_' || left(md5(o.slug || '#' || i), 4),
       left(translate(encode(decode(md5(o.slug || '/' || i) || md5(i || o.slug), 'hex'), 'base64'), '+/=' || chr(10), ''), 16),
       (ARRAY[
           'Invoice sync to NetSuite', 'Lead routing to HubSpot', 'Slack alerts for failed payments',
           'Stripe payouts to ledger', 'Nightly CRM dedupe', 'Onboarding e-mail sequence', 'Jira tickets from support inbox',
           'Shopify order export', 'Inventory levels to warehouse', 'Weekly KPI digest', 'GitHub release notes',
           'Customer health score', 'Refund approvals', 'Salesforce contact sync', 'Zendesk triage',
           'Contract renewals reminder', 'Backup Airtable bases', 'PagerDuty escalation bridge', 'Expense receipts OCR',
           'New hire provisioning', 'Offboarding checklist', 'Typeform responses to BigQuery', 'GDPR erasure requests',
           'Calendar no-show follow-up', 'Webhook relay to ERP', 'Daily FX rates', 'Trial expiry nudges',
           'Purchase order matching', 'Churn survey collector', 'Mailchimp audience sync', 'Dunning, second notice',
           'SFTP drop to S3', 'Shipment tracking updates', 'Social mentions monitor', 'Sales tax lookup',
           'Meeting notes to Notion', 'Vendor KYC checks', 'Ad spend report', 'Data quality checks, orders',
           'Twilio SMS confirmations', 'Okta group sync', 'Quarterly access review', 'Postgres to Sheets export',
           'Feature flag audit', 'Incident timeline to Confluence', 'Subscription upgrades', 'Gift card fulfilment',
           'Return labels'])[1 + (o.n * 7 + i * 5) % 48]
FROM sample_organizations o, generate_series(0, 17) AS i;

-- Without statistics, the joins below are planned for tables of unknown size.
ANALYZE sample_plans, sample_organizations, sample_environments, sample_workflows;
