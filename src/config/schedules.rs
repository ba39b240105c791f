//! Settings of `nightshift schedules`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Extent, Talk};

/// Schedule subcommands.
#[derive(Debug, Clone, Args)]
pub struct SchedulesArgs {
    /// What to do
    #[command(subcommand)]
    pub command: Schedules,
}

/// What can be done with schedules.
#[derive(Debug, Clone, Subcommand)]
pub enum Schedules {
    /// List schedules, newest first
    #[command(after_help = "Examples:
  nightshift schedules list
  nightshift schedules list --all --output json")]
    List(ListSchedules),
    /// Show a schedule and its next fires
    #[command(after_help = "Examples:
  nightshift schedules get sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")]
    Get(OneSchedule),
    /// Create a schedule from its definition
    #[command(after_help = "Examples:
  nightshift schedules create schedule.json --dry-run
  nightshift schedules create schedule.json --set time_zone=America/New_York")]
    Create(CreateSchedule),
    /// Let no more fires of a schedule come
    #[command(after_help = "Examples:
  nightshift schedules pause sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")]
    Pause(OneSchedule),
    /// Let a paused schedule go on with its next fire
    #[command(after_help = "Examples:
  nightshift schedules resume sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")]
    Resume(OneSchedule),
    /// Make a fire of this moment
    #[command(after_help = "Examples:
  nightshift schedules run sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")]
    Run(OneSchedule),
    /// Remove a schedule with its history; its jobs stay
    #[command(after_help = "Examples:
  nightshift schedules delete sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")]
    Delete(OneSchedule),
    /// List a schedule's fires and what became of them, latest first
    #[command(after_help = "Examples:
  nightshift schedules runs sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073
  nightshift schedules runs sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073 --all --output json")]
    Runs(ScheduleRuns),
}

/// Which schedules to list.
#[derive(Debug, Clone, Args)]
pub struct ListSchedules {
    /// How much.
    #[command(flatten)]
    pub extent: Extent,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// Which schedule.
#[derive(Debug, Clone, Args)]
pub struct OneSchedule {
    /// The schedule's id
    #[arg(value_name = "SCHEDULE")]
    pub id: String,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// What to create.
#[derive(Debug, Clone, Args)]
pub struct CreateSchedule {
    /// A schedule's definition in JSON, `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// A field of the definition by its path, such as job.execution.priority=10, in JSON or as a text
    #[arg(long, value_name = "FIELD=VALUE", value_parser = super::pair)]
    pub set: Vec<(String, String)>,
    /// Show the next fires, and create nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// Which fires.
#[derive(Debug, Clone, Args)]
pub struct ScheduleRuns {
    /// The schedule's id
    #[arg(value_name = "SCHEDULE")]
    pub id: String,
    /// How much.
    #[command(flatten)]
    pub extent: Extent,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}
