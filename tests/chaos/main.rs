//! Chaos: real processes are killed, frozen and stopped, PostgreSQL is restarted, and then the output is held against the input record by
//! record.
//!
//! ```sh
//! scripts/test --test chaos                                   # the short run, on both databases
//! scripts/test --test chaos -- --long                         # the long run: the figures of docs/CHAOS.md
//! scripts/test --test chaos -- kills --database postgres --long --seed 7
//! ```
//!
//! The seed is printed; with it a run draws the same moments, though no two runs of a machine are alike.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a program of the tests")]

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod databases;
mod messages;
mod nodes;
mod workload;

use std::time::Instant;

use databases::Database;
use futures::future::BoxFuture;
use rand::{SeedableRng, rngs::StdRng};

/// What a case is given.
pub struct Case {
    pub database: Database,
    /// Many repetitions, for figures; few otherwise.
    pub long: bool,
    pub random: StdRng,
}

impl Case {
    /// How often to do something.
    pub fn times(&self, short: usize, long: usize) -> usize {
        if self.long { long } else { short }
    }
}

type Run = for<'c> fn(&'c mut Case) -> BoxFuture<'c, String>;

/// The cases: what is promised, what is done to it, on which databases.
const CASES: [(&str, Run, &[&str]); 8] = [
    ("kills", |case| Box::pin(nodes::kills(case)), &["sqlite", "postgres"]),
    ("accepted", |case| Box::pin(nodes::accepted(case)), &["sqlite", "postgres"]),
    ("frozen", |case| Box::pin(nodes::frozen(case)), &["sqlite", "postgres"]),
    ("terminated", |case| Box::pin(nodes::terminated(case)), &["sqlite", "postgres"]),
    ("messages", |case| Box::pin(messages::messages(case)), &["sqlite", "postgres"]),
    ("restarts", |case| Box::pin(nodes::restarts(case)), &["postgres"]),
    ("scaling", |case| Box::pin(nodes::scaling(case)), &["postgres"]),
    ("takeover", |case| Box::pin(nodes::takeover(case)), &["postgres"]),
];

struct Options {
    long: bool,
    seed: u64,
    database: Option<String>,
    filter: Option<String>,
    list: bool,
}

impl Options {
    /// Reads the command line; what cargo passes to every test program is understood as far as it means something here.
    fn read() -> Self {
        let mut options = Self { long: false, seed: 0, database: None, filter: None, list: false };
        let mut seed = std::env::var("NIGHTSHIFT_TEST_SEED").ok();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--long" => options.long = true,
                "--seed" => seed = args.next(),
                "--database" => options.database = args.next(),
                "--list" => options.list = true,
                "--nocapture" | "--exact" | "--quiet" | "-q" => {}
                filter if !filter.starts_with('-') => options.filter = Some(filter.to_owned()),
                other => panic!("{other} means nothing here; see tests/chaos/main.rs"),
            }
        }
        options.seed = seed.map_or_else(rand::random, |text| text.parse().expect("the seed is a number"));
        options
    }
}

fn main() {
    let options = Options::read();
    let wanted = |name: &str| options.filter.as_deref().is_none_or(|filter| name.contains(filter));
    let on = |database: &str| options.database.as_deref().is_none_or(|only| only == database);
    let chosen = CASES.iter().flat_map(|(name, run, databases)| databases.iter().map(move |database| (*name, *run, *database)));
    let chosen: Vec<_> = chosen.filter(|(name, _, database)| wanted(name) && on(database)).collect();
    if options.list {
        chosen.iter().for_each(|(name, _, database)| println!("{name}_{database}: test"));
        return;
    }
    println!("NIGHTSHIFT_TEST_SEED={}", options.seed);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for (at, (name, run, database)) in chosen.iter().enumerate() {
        let started = Instant::now();
        // A case that fails panics, and the program ends with it: what comes after a loss is of no interest.
        let figures = runtime.block_on(async {
            let random = StdRng::seed_from_u64(options.seed.wrapping_add(at as u64));
            let mut case = Case { database: Database::start(database), long: options.long, random };
            run(&mut case).await
        });
        println!("test {name} on {database} ... ok: {figures} ({:.0} s)", started.elapsed().as_secs_f64());
    }
    println!("{} passed, 0 failed", chosen.len());
}
