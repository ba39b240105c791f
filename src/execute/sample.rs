//! Runs the first records of a job that is not there yet, for a dry run; and tensors as they are, to try a model out.
//!
//! In: a definition with its pinned model, and the objects to begin with. Out: a [`Sample`], or the problem that the job would meet.
//! Each sample has a runner process of its own, which ends with it: a model that crashes or hangs costs no chunk its attempt, and what
//! it loaded does not stay. A caller that goes away takes its process along.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    executor::model_failure,
    supervisor::{Ended, Process, RunnerOptions, batch_timeout, load_timeout, spawn, status_text},
};
use crate::{
    domain::{JobSpec, ObjectSlice, PartNames, Problem, Signature, job::PinnedModel},
    model::{Models, Resolved},
    runner::{
        featurize::ImageLimits,
        protocol::{ChunkTask, FromRunner, InferInput, InferTask, InferredTensor, Sample, SampleTask, ToRunner},
    },
};

/// Samples at once, and tensors at once; others wait for those of their kind.
const TURNS: usize = 2;
/// How long a sample may take, waiting for its turn included: less than most clients wait for an answer.
const LIMIT: Duration = Duration::from_secs(45);

/// Runs samples; cheap until it is used.
#[derive(Debug)]
pub struct Sampler {
    runner: RunnerOptions,
    models: Arc<Models>,
    providers: Vec<String>,
    image_limits: ImageLimits,
    samples: Semaphore,
    trials: Semaphore,
}

impl Sampler {
    /// `providers` are those of jobs that name none; `image_limits` those of every job.
    pub fn new(runner: RunnerOptions, models: Arc<Models>, providers: Vec<String>, image_limits: ImageLimits) -> Self {
        let (samples, trials) = (Semaphore::new(TURNS), Semaphore::new(TURNS));
        Self { runner: RunnerOptions { workers: 1, ..runner }, models, providers, image_limits, samples, trials }
    }

    /// Runs the first `records` records of `inputs` and writes nothing.
    ///
    /// # Errors
    /// What would fail the job, or that the sample took too long.
    pub async fn sample(&self, spec: &JobSpec, resolved: &Resolved, inputs: Vec<ObjectSlice>, records: u64) -> Result<Sample, Problem> {
        let sampled = async {
            let _turn = self.samples.acquire().await;
            let model_dir = self.model_dir(&resolved.model).await?;
            let names = PartNames::new(0, "unwritten", spec.output.format, spec.output.compression);
            let (model, pipeline) = (&resolved.model, &resolved.pipeline);
            let chunk = ChunkTask {
                attempt: 1,
                chunk: "dry run".to_owned(),
                inputs,
                review: None,
                table: None,
                ..ChunkTask::of(spec, model, pipeline, names, model_dir, &self.providers, self.image_limits)
            };
            match run(&self.runner, ToRunner::Sample(Box::new(SampleTask { chunk, records }))).await? {
                FromRunner::Sampled { sample, .. } => Ok(*sample),
                other => Err(unexpected(&other)),
            }
        };
        tokio::time::timeout(LIMIT, sampled).await.unwrap_or_else(|_| {
            let detail = format!(
                "the first {records} records had no outcome after {} s, loading the model included; ask for fewer, or look at the model",
                LIMIT.as_secs()
            );
            Err(Problem::new("dry_run_timeout", "The dry run took too long", detail))
        })
    }

    /// Puts tensors into a model as they are: its outputs that are tensors, and the names of the others.
    ///
    /// # Errors
    /// What the model or the runtime made of it, or that it took too long.
    pub async fn infer(
        &self,
        model: &PinnedModel,
        signature: &Signature,
        inputs: Vec<InferInput>,
    ) -> Result<(Vec<InferredTensor>, Vec<String>), Problem> {
        let inferred = async {
            let _turn = self.trials.acquire().await;
            let (model_dir, providers) = (self.model_dir(model).await?, self.providers.clone());
            let task = InferTask { model_dir, model: model.clone(), signature: signature.clone(), providers, inputs };
            match run(&self.runner, ToRunner::Infer(Box::new(task))).await? {
                FromRunner::Inferred { outputs, left_out } => Ok((outputs, left_out)),
                other => Err(unexpected(&other)),
            }
        };
        tokio::time::timeout(LIMIT, inferred).await.unwrap_or_else(|_| {
            let detail = format!("there were no outputs after {} s, loading the model included", LIMIT.as_secs());
            Err(Problem::new("inference_timeout", "The model took too long", detail))
        })
    }

    /// The folder with the model's files.
    async fn model_dir(&self, model: &PinnedModel) -> Result<PathBuf, Problem> {
        self.models.ensure(model).await.map_err(|e| match model_failure(&e) {
            Ended::Failed { problem, .. } => problem,
            Ended::Done(_) | Ended::Stopped | Ended::Away(_) | Ended::Lost(_) => {
                Problem::new("model_cache_failed", "The pinned model cannot be had", e.to_string())
            }
        })
    }
}

/// An answer to what was not asked.
fn unexpected(frame: &FromRunner) -> Problem {
    let kind = match frame {
        FromRunner::Sampled { .. } => "a sample",
        FromRunner::Inferred { .. } => "tensors",
        _ => "something else",
    };
    Problem::new("internal_error", "The runner met a fault of its own", format!("it answered with {kind}"))
}

/// One process, one question; its answer. Dropped half-way, the process is killed.
async fn run(options: &RunnerOptions, question: ToRunner) -> Result<FromRunner, Problem> {
    let not_started = |detail: String| Problem::new("runner_not_started", "The runner process could not be started", detail);
    let mut process: Process = spawn(options).map_err(|e| not_started(e.to_string()))?;
    process.outbox.send(&question);
    let mut ready = false;
    while let Some(frame) = process.frames.recv().await {
        match frame {
            FromRunner::Ready { .. } => ready = true,
            answer @ (FromRunner::Sampled { .. } | FromRunner::Inferred { .. }) => return Ok(answer),
            FromRunner::Failed { problem, .. } => return Err(problem),
            FromRunner::Beat { loading: Some(loading), .. } if u128::from(loading.for_ms) > options.load_timeout.as_millis() => {
                return Err(load_timeout(options));
            }
            FromRunner::Beat { busy, .. } => {
                if let Some(busy) = busy.iter().find(|b| u128::from(b.for_ms) > options.batch_timeout.as_millis()) {
                    return Err(batch_timeout(options, busy));
                }
            }
            FromRunner::Done { .. } | FromRunner::Stopped { .. } | FromRunner::At { .. } | FromRunner::Goodbye => {}
        }
    }
    let status = process.child.wait().await.map_or_else(|e| e.to_string(), |status| status_text(status, options.memory_limit));
    if ready {
        return Err(Problem::new("runner_crash", "The runner process died", format!("it ended with {status} while it ran the records")));
    }
    Err(not_started(format!("it ended before it was ready ({status}); the service's log says why")))
}
