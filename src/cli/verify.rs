//! `nightshift verify`: shows what [`crate::verify`] finds.

use super::{
    show,
    stop::{Outcome, Stop},
};
use crate::{
    config::{self, BucketSections, Form},
    domain::job::Ending,
    verify::{Depth, Report, verify},
};

pub(super) fn run(settings: &config::Verify, buckets: BucketSections) -> Outcome {
    let location = super::location(&settings.location)?.as_prefix();
    let depth = if settings.input { Depth::Input } else { Depth::Output };
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let side_by_side = settings.parallel.unwrap_or_else(cores);
    super::block_on(async move {
        let stores = super::stores(buckets)?;
        let report = verify(&stores, &location, depth, side_by_side).await.map_err(|e| e.to_string())?;
        match settings.output {
            Form::Json => show::print_json(&report)?,
            Form::Table => show::print(&text(&report))?,
        }
        if report.verified { Ok(()) } else { Err(Stop::said()) }
    })
}

fn text(report: &Report) -> String {
    let ending = report.ending.map_or("unknown", Ending::name);
    let mut rows = vec![
        ("job", report.job.clone()),
        ("output", report.output.to_string()),
        ("review queue of", report.review_of.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("ending", format!("{ending}{}", if report.complete { "" } else { ", not complete" })),
        ("parts", format!("{} ({} files, {} bytes)", report.parts, report.files, report.bytes)),
        ("outcomes", format!("{} predictions, {} errors", report.succeeded, report.failed)),
    ];
    if let Some(records) = report.input_records {
        rows.push(("input", format!("{records} records")));
    }
    let mut text = show::pairs(rows.into_iter().map(|(name, value)| (name.to_owned(), value)));
    if report.verified {
        if let Some(table) = &report.only_table {
            let proven = "error rows and counts are those of the manifest; the predictions are in the table";
            return text + &format!("\nverified: {proven} {table}, which was not read.\n");
        }
        let proven = match (report.complete, report.input_records) {
            _ if report.review_of.is_some() => {
                "what the manifest says is there, and no record stands twice; a review queue holds flagged records alone, and the job's own output all"
            }
            (true, Some(_)) => "each record of the input has exactly one outcome",
            (true, None) => "what the manifest says is there, no record has two outcomes, and the whole snapshot is covered",
            (false, _) => "what the manifest says is there, and no record has two outcomes; the job did not finish",
        };
        return text + &format!("\nverified: {proven}.\n");
    }
    text += &format!("\n{} findings:\n", report.findings_total);
    for finding in &report.findings {
        text += &format!("  {finding}\n");
    }
    let hidden = report.findings_total - report.findings.len() as u64;
    if hidden > 0 {
        text += &format!("  and {hidden} more\n");
    }
    text
}
