//! Several nodes on one database: what PostgreSQL alone is for.

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::Notify;

use super::*;

impl Bench {
    /// Another node on the same database.
    pub(crate) async fn node(&self) -> SqlStore {
        SqlStore::open(&self.database).await.unwrap()
    }

    /// An empty schema that nobody has opened yet.
    async fn untouched() -> Database {
        Bench::schema().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_nodes_that_start_together_make_the_tables_once() {
    let database = Bench::untouched().await;
    for start in futures::future::join_all((0..10).map(|_| SqlStore::open(&database))).await {
        start.unwrap();
    }
    let found = inspect(&database).await.unwrap().unwrap();
    assert!(found.applied > 0 && found.pending == 0, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_outputs_asked_for_at_once_go_to_one_job() {
    let b = Bench::postgres().await;
    let outputs = ["s3://lake/a/", "s3://lake/a/b/", "s3://lake/", "s3://lake/a/b/c/"];
    let calls: Vec<_> = (0..16)
        .map(|n| {
            let store = b.store.clone();
            tokio::spawn(async move { store.create_job(new_job(outputs[n % 4])).await.unwrap() })
        })
        .collect();
    let mut made = 0;
    for call in calls {
        match call.await.unwrap() {
            Created::Job(_) => made += 1,
            Created::OutputClaimed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(made, 1);
}

/// Sixteen nodes claim from three jobs at once. Some die with what they hold, others are slow: whoever is late is fenced off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_nodes_commit_every_chunk_once() {
    let b = Bench::postgres().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let mut new = new_job(&format!("s3://lake/{n}/"));
        new.spec.execution.max_attempts = 1000;
        new.spec.execution.max_parallel_chunks = (n == 0).then_some(7);
        ids.push(b.planned(new, 60).await);
    }
    let seed: u64 = std::env::var("NIGHTSHIFT_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("NIGHTSHIFT_TEST_SEED={seed}");
    let stores: Vec<SqlStore> = vec![b.store.clone(), b.node().await, b.node().await, b.node().await];
    let workers: Vec<_> = (0..16u64)
        .map(|n| {
            let (store, clock) = (stores[n as usize % 4].clone(), stores.clone());
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(n));
            tokio::spawn(async move {
                let mut committed = Vec::new();
                let mut idle = 0;
                while idle < 40 {
                    let claimed = store.claim_chunks(&format!("w{n}"), random.random_range(1..5), TTL).await.unwrap();
                    idle = if claimed.is_empty() { idle + 1 } else { 0 };
                    for claimed in claimed {
                        match random.random_range(0..10) {
                            0 => drop(store.retry_chunk(&claimed.lease, &problem(), Duration::ZERO, &Spent::default()).await.unwrap()),
                            // Dies with it: all clocks go on until the lease has run out.
                            1 => clock.iter().for_each(|node| node.advance_clock(TTL)),
                            2 => drop(store.renew_chunks(std::slice::from_ref(&claimed.lease), TTL).await.unwrap()),
                            _ => {
                                if store.commit_chunk(&claimed.lease, &result(1, 0)).await.unwrap() == Written::Done {
                                    committed.push(claimed.lease.chunk.clone());
                                }
                            }
                        }
                    }
                    if idle > 0 {
                        clock.iter().for_each(|node| node.advance_clock(TTL / 4));
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                committed
            })
        })
        .collect();
    let mut committed = Vec::new();
    for worker in workers {
        committed.extend(worker.await.unwrap());
    }
    let distinct: BTreeSet<String> = committed.iter().map(ToString::to_string).collect();
    assert_eq!((committed.len(), distinct.len()), (180, 180), "each once");
    for id in &ids {
        let job = b.job(id).await;
        assert_eq!((job.counts.succeeded, job.counts.chunks_done, job.ending), (60, 60, Some(Ending::Completed)));
    }
    let backlog = b.store.backlog().await.unwrap();
    assert_eq!((backlog.pending, backlog.running), (0, 0));
}

/// Claims, ends and renewals that meet on the same rows in every order do not wait for each other in a circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_can_be_paused_retried_and_cancelled_while_many_claim_from_them() {
    let b = Bench::postgres().await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(b.planned(new_job(&format!("s3://lake/{n}/")), 40).await);
    }
    let workers: Vec<_> = (0..8)
        .map(|n| {
            let store = b.store.clone();
            tokio::spawn(async move {
                let mut held = Vec::new();
                for _ in 0..40 {
                    let claimed = store.claim_chunks(&format!("w{n}"), 4, TTL).await.unwrap();
                    held.extend(claimed.into_iter().map(|c| c.lease));
                    store.renew_chunks(&held, TTL).await.unwrap();
                    if let Some(lease) = held.pop() {
                        let _any = store.commit_chunk(&lease, &result(1, 0)).await.unwrap();
                    }
                    if let Some(lease) = held.pop() {
                        let _any = store.release_chunk(&lease, &Spent::default()).await.unwrap();
                    }
                    if let Some((lease, job)) = store.claim_finalizing("f", TTL).await.unwrap() {
                        let _any = store.finish_job(&lease, job.ending.unwrap_or(Ending::Failed), None).await.unwrap();
                    }
                }
                for lease in held {
                    let _any = store.release_chunk(&lease, &Spent::default()).await.unwrap();
                }
            })
        })
        .collect();
    for round in 0..20 {
        let id = &ids[round % 4];
        for done in [b.store.pause_job(id).await, b.store.resume_job(id).await, b.store.cancel_job(id).await] {
            done.unwrap();
        }
        b.store.retry_job(id).await.unwrap();
        b.store.expire_jobs().await.unwrap();
    }
    for worker in workers {
        worker.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_one_node_makes_rings_the_others() {
    let b = Bench::postgres().await;
    let other = b.node().await;
    let bell = Arc::new(Notify::new());
    let ring = bell.notified();
    other.wake(bell.clone());
    // Once when it begins to listen.
    ring.await;
    let ring = bell.notified();
    b.create(new_job("s3://lake/out/")).await;
    ring.await;
}
