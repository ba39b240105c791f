//! How much statements read: by this tests see that no table is read from end to end where an index is meant.
//!
//! A measure that is the same at each run, whatever else the machine does: of SQLite the steps of its virtual machine, of PostgreSQL the
//! rows that the nodes of the plan looked at.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use sqlx::{ConnectOptions as _, Connection as _, Row as _, sqlite::SqliteConnectOptions};

use super::{
    driver::{Db, Query, Row},
    postgres,
};
use crate::db::Database;

/// Steps of SQLite's virtual machine between two looks at their number.
const STEPS: i32 = 100;

/// Lets PostgreSQL's rows be what they are not allowed to be.
const UNCHECKED: &str = "DO $$ DECLARE c record; BEGIN \
     FOR c IN SELECT conrelid::regclass AS of, conname FROM pg_constraint WHERE contype = 'c' AND connamespace = current_schema()::regnamespace LOOP \
     EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.of, c.conname); END LOOP; END $$";

thread_local! {
    static HEARD: RefCell<Option<Vec<Query>>> = const { RefCell::new(None) };
}

/// Keeps a statement if somebody listens on this thread.
pub(super) fn hear(query: &Query) {
    HEARD.with_borrow_mut(|heard| heard.iter_mut().for_each(|heard| heard.push(query.clone())));
}

/// Does the work, on this thread alone, then says every statement of it again, in transactions that come to nothing. Each with how much
/// it read.
pub(in crate::db) async fn reads(database: &Database, work: impl Future<Output = ()>) -> Vec<(String, u64)> {
    HEARD.set(Some(Vec::new()));
    work.await;
    let heard = HEARD.take().unwrap();
    // What is inserted reads nothing, and is there already.
    let again = heard.into_iter().filter(|query| !query.text().starts_with("INSERT"));
    match database {
        Database::Sqlite(path) => {
            let options = SqliteConnectOptions::new().filename(path).foreign_keys(true).busy_timeout(Duration::from_secs(10));
            // A count is taken down a second time, a state left that was left already.
            let mut connection = options.pragma("ignore_check_constraints", "ON").connect().await.unwrap();
            let steps = Arc::new(AtomicU64::new(0));
            let counted = steps.clone();
            connection.lock_handle().await.unwrap().set_progress_handler(STEPS, move || {
                counted.fetch_add(STEPS as u64, Ordering::Relaxed);
                true
            });
            let mut reads = Vec::new();
            for query in again {
                let mut transaction = connection.begin().await.unwrap();
                steps.store(0, Ordering::Relaxed);
                let text = query.text().to_owned();
                query.rows(&mut Db::Sqlite(&mut transaction)).await.unwrap();
                reads.push((text, steps.load(Ordering::Relaxed)));
                transaction.rollback().await.unwrap();
            }
            reads
        }
        Database::Postgres { url, .. } => {
            let mut connection = postgres::options(url).unwrap().connect().await.unwrap();
            sqlx::raw_sql(UNCHECKED).execute(&mut connection).await.unwrap();
            let mut reads = Vec::new();
            for query in again {
                let mut transaction = connection.begin().await.unwrap();
                let text = query.text().to_owned();
                let found = query.explained().row(&mut Db::Postgres(&mut transaction)).await.unwrap();
                let Some(Row::Postgres(plan)) = found else { panic!("no plan of {text}") };
                let plan: Value = serde_json::from_str(&plan.try_get_unchecked::<String, _>(0).unwrap()).unwrap();
                reads.push((text, looked_at(&plan[0]["Plan"])));
                transaction.rollback().await.unwrap();
            }
            reads
        }
    }
}

/// Rows that the nodes of a plan gave or passed over.
fn looked_at(node: &Value) -> u64 {
    let count = |name: &str| node[name].as_f64().unwrap_or(0.0);
    let each = count("Actual Rows")
        + count("Rows Removed by Filter")
        + count("Rows Removed by Index Recheck")
        + count("Rows Removed by Join Filter");
    let below = node["Plans"].as_array().into_iter().flatten().map(looked_at).sum::<u64>();
    (each * count("Actual Loops")) as u64 + below
}
