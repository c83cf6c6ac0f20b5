//! *nights*: whether tables and indexes keep their size, night after night. A day passes in seconds: rows are dated so
//! that each day's expire within it, and the oldest on disk go.

use std::time::Duration;

use anyhow::Result;
use sqlx::{Postgres, Row, Transaction};
use tokio::time::{Instant, sleep};

use super::memory;
use crate::{
    Bench,
    measures::{Series, count, float, number},
    plot::{Kind, Plot},
    report::{Bound, Section, Table, Target},
    seed::Seed,
    server::Copy,
    sql, verify,
};

/// At full scale.
const ORGANIZATIONS: u64 = 200;
const NIGHTS: u32 = 30;
/// How many days a row is kept.
const KEPT: u32 = 5;
/// Nights in which nothing can be vacuumed. What a first one costs is in the sizes that later ones are compared with;
/// the others have to get along with it. The last is as far from the end as the first from then.
const HELD_UP: [u32; 3] = [2, 12, 27];
/// A day, in seconds.
const DAY: u32 = 12;
/// Sizes are compared with those after this night: by then every row that was seeded has gone once.
const SETTLED: usize = KEPT as usize;
const VACUUM_PATIENCE: Duration = Duration::from_secs(DAY as u64 / 2);

/// Sizes after a night in MiB: of each table, and of its indexes.
type Sizes = Vec<(String, f64)>;

pub(crate) async fn measure(bench: &Bench) -> Result<Section> {
    let organizations = bench.scaled(ORGANIZATIONS);
    let seed = Seed::nights(organizations);
    seed.plant(&bench.server).await?;
    let copy = bench.server.open(&seed.database)?;
    set_naptime(&copy, "SET autovacuum_naptime = '1s'").await?;
    let found = nights(bench, &copy).await;
    set_naptime(&copy, "RESET autovacuum_naptime").await?;
    let (sizes, held) = found?;
    copy.pool.close().await;
    bench.server.drop(&seed.database).await?;
    Ok(section(organizations, &sizes, held))
}

/// Autovacuum looks once a minute; a day here is shorter.
async fn set_naptime(copy: &Copy, change: &str) -> Result<()> {
    sql::run(&copy.pool, &format!("ALTER SYSTEM {change}")).await?;
    sql::run(&copy.pool, "SELECT pg_reload_conf()").await
}

async fn nights(bench: &Bench, copy: &Copy) -> Result<(Vec<Sizes>, Series)> {
    // The days that are kept are made beforehand; making one takes a fraction of it.
    let lead = KEPT * DAY / 2;
    let began = now(copy).await?;
    let first = began + f64::from(lead);
    for day in 1..=KEPT {
        make_day(copy, first, day).await?;
    }
    let (mut sizes, mut held) = (Vec::new(), Series::default());
    let mut snapshot: Option<Transaction<'_, Postgres>> = None;
    for night in 1..=NIGHTS {
        let over = first + f64::from((night + 1) * DAY);
        let left = over - now(copy).await?;
        sleep(Duration::from_secs_f64(left.max(0.0))).await;
        make_day(copy, first, KEPT + night).await?;
        if let Some(last_nights) = snapshot.take() {
            last_nights.rollback().await?;
        }
        if HELD_UP.contains(&night) {
            snapshot = Some(take_snapshot(copy).await?);
        }
        let outcome = bench.ours().purge(copy).await?;
        held.0
            .extend(outcome.memory_kib.map(|kib| float(kib) / 1024.0));
        let vacuumed = wait_for_autovacuum(copy).await?;
        let after = measure_sizes(copy).await?;
        println!(
            "night {night}: {:.2} s, {} MiB, vacuum waited for {:.1} s",
            outcome.wall.as_secs_f64(),
            number(after.iter().map(|(_, size)| size).sum()),
            vacuumed.as_secs_f64()
        );
        sizes.push(after);
    }
    Ok((sizes, held))
}

/// By the server's clock, in seconds since 1970.
async fn now(copy: &Copy) -> Result<f64> {
    let now = "SELECT extract(epoch FROM clock_timestamp())::float8";
    sql::value(&copy.pool, now).await
}

/// A transaction that is left open, as a backup's: what is deleted from now on cannot be vacuumed before its end.
async fn take_snapshot(copy: &Copy) -> Result<Transaction<'static, Postgres>> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
    let mut snapshot = copy.pool.begin_with(begin).await?;
    sql::script(
        &mut snapshot,
        "-- bench.nights.snapshot
         SELECT 1",
    )
    .await?;
    Ok(snapshot)
}

async fn make_day(copy: &Copy, first: f64, day: u32) -> Result<()> {
    let mut connection = sql::connection(&copy.url).await?;
    let expires = first + f64::from(day * DAY);
    let settings = format!("SET bench.expires = '{expires}'; SET bench.day = '{DAY}'");
    sql::script(&mut connection, &settings).await?;
    sql::script(&mut connection, include_str!("../seed/nights_day.sql")).await
}

/// Until no table has more dead rows than autovacuum lets lie and it is not at work; how long that took.
async fn wait_for_autovacuum(copy: &Copy) -> Result<Duration> {
    let began = Instant::now();
    while began.elapsed() < VACUUM_PATIENCE {
        // What a session just did is known to all after a second.
        sleep(Duration::from_secs(1)).await;
        let busy: bool = sql::value(
            &copy.pool,
            "-- bench.nights.autovacuum
             SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'autovacuum worker')
                 OR EXISTS (
                     SELECT FROM pg_stat_user_tables t JOIN pg_class c ON c.oid = t.relid
                     CROSS JOIN LATERAL (
                         SELECT coalesce(max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_threshold'),
                                         current_setting('autovacuum_vacuum_threshold'))::float8 AS base,
                                coalesce(max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_scale_factor'),
                                         current_setting('autovacuum_vacuum_scale_factor'))::float8 AS share
                         FROM pg_options_to_table(c.reloptions)) o
                     WHERE t.schemaname = 'public' AND t.n_dead_tup > o.base + o.share * greatest(c.reltuples, 0))",
        )
        .await?;
        if !busy {
            break;
        }
    }
    Ok(began.elapsed())
}

async fn measure_sizes(copy: &Copy) -> Result<Sizes> {
    let mut sizes = Sizes::new();
    for table in verify::PURGED {
        let found = sql::rows(
            &copy.pool,
            &format!("SELECT pg_table_size('public.{table}')::float8, pg_indexes_size('public.{table}')::float8"),
        )
        .await?;
        for row in found {
            for (index, name) in [table.to_owned(), format!("{table}, indexes")]
                .into_iter()
                .enumerate()
            {
                sizes.push((name, row.try_get::<f64, _>(index)? / 1024.0 / 1024.0));
            }
        }
    }
    Ok(sizes)
}

fn section(organizations: u64, sizes: &[Sizes], held: Series) -> Section {
    let names: Vec<String> = sizes.first().map_or_else(Vec::new, |first| {
        first.iter().map(|(name, _)| name.clone()).collect()
    });
    let shown: Vec<usize> = [1, SETTLED, 10, 15, 20, 25, 30]
        .into_iter()
        .filter(|night| *night <= sizes.len())
        .collect();
    let at = |night: usize, index: usize| sizes[night - 1][index].1;
    let mut titles = vec!["Size, MiB, after night".to_owned()];
    titles.extend(shown.iter().map(ToString::to_string));
    titles.push(format!("{} ÷ {SETTLED}", sizes.len()));
    let mut rows = vec![titles];
    for (index, name) in names.iter().enumerate() {
        let mut row = vec![name.clone()];
        row.extend(shown.iter().map(|night| number(at(*night, index))));
        row.push(number(at(sizes.len(), index) / at(SETTLED, index)));
        rows.push(row);
    }
    let total = |night: usize, indexes: bool| -> f64 {
        (0..names.len())
            .filter(|index| names[*index].ends_with("indexes") == indexes)
            .map(|index| at(night, index))
            .sum()
    };
    let flat = |what: &str, indexes: bool| Target {
        what: format!(
            "{what}, after night {} ÷ after night {SETTLED}",
            sizes.len()
        ),
        measured: Series(vec![total(sizes.len(), indexes) / total(SETTLED, indexes)]),
        bound: Bound::AtMost(1.1),
    };
    let lines = |indexes: bool| {
        let chosen = (0..names.len()).filter(|index| names[*index].ends_with("indexes") == indexes);
        let line = |index: usize| {
            let points = (1..=sizes.len()).map(|night| (float(night as u64), at(night, index)));
            (names[index].replace(", indexes", ""), points.collect())
        };
        chosen.map(line).collect()
    };
    let plot = |file: &str, what: &str, indexes: bool| Plot {
        file: file.to_owned(),
        title: format!("nights: size of the {what}"),
        y: "MiB".to_owned(),
        kind: Kind::Lines {
            x: "night".to_owned(),
            doubling: false,
            lines: lines(indexes),
        },
    };
    Section {
        title: "nights: thirty of them".to_owned(),
        about: vec![format!(
            "{} organizations whose rows are kept for {KEPT} days; each day brings as many rows as expire: {} checks, {} flags, \
             and incidents with payloads and approvals. A day passes in {DAY} seconds, and autovacuum looks every second instead of once a minute; \
             it is otherwise as the schema sets it. Every night the worker purges what is due, autovacuum is waited for, and \
             sizes are read. In the nights {} a transaction that stays open until the next, as a backup's does, keeps \
             everything from being vacuumed: what such a night costs is in the sizes that are compared with, and may not be \
             taken again by the next one. The table `incidents` is not here: its rows are never deleted.",
            count(organizations),
            count(organizations * 60),
            count(organizations * 300),
            HELD_UP.map(|night| night.to_string()).join(", ")
        )],
        tables: vec![Table(rows)],
        targets: vec![flat("tables", false), flat("indexes", true), memory(held)],
        plots: vec![
            plot("nights-tables", "tables", false),
            plot("nights-indexes", "indexes", true),
        ],
    }
}
