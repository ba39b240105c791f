//! What work costs: prices, what was spent, what may be spent, what is expected.
//!
//! The unit is the *device-second*. On `cpu` and `openvino` a device is a core, as a runner has a session of one thread for each; on
//! `cuda` and `tensorrt` it is the accelerator, of which a runner has one. A runner's devices are held from the moment at which it is handed a chunk until nothing is
//! in flight any more, and chunks that are in flight together share that time equally: what a job is charged adds up to what its devices
//! were there for, loading and waiting included.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a device-hour costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Pricing {
    /// Of ISO 4217, such as `EUR`.
    pub currency: String,
    /// By execution provider.
    pub per_hour: BTreeMap<String, f64>,
}

impl Pricing {
    /// What that much time on a provider's devices costs; `None` when it has no price.
    pub fn cost(&self, provider: &str, device_seconds: f64) -> Option<f64> {
        self.per_hour.get(provider).map(|price| price * device_seconds / 3600.0)
    }
}

/// What an attempt took.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Spent {
    /// Device-seconds.
    pub device_seconds: f64,
    /// Their price, 0 where there is none.
    pub cost: f64,
    /// Of the price; `None` where there is none.
    pub currency: Option<String>,
}

impl Spent {
    /// That much time on a provider's devices, at these prices.
    pub fn new(provider: &str, device_seconds: f64, pricing: Option<&Pricing>) -> Self {
        match pricing.and_then(|pricing| Some((pricing.cost(provider, device_seconds)?, pricing))) {
            Some((cost, pricing)) => Self { device_seconds, cost, currency: Some(pricing.currency.clone()) },
            None => Self { device_seconds, ..Self::default() },
        }
    }
}

/// What a job may cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// A job that has cost more than this ends as failed.
    pub max_cost: f64,
}

/// What an estimate rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Earlier jobs with the same model, pipeline and provider.
    Measured,
    /// The few records that a dry run has run, one after the other.
    Sample,
}

impl Basis {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Sample => "sample",
        }
    }
}

/// What work is expected to take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// What it rests on.
    pub basis: Basis,
    /// The execution provider that it is for.
    pub provider: String,
    /// From the first claim to the end, with as many devices as whatever was measured had.
    pub seconds: f64,
    /// Device-seconds.
    pub device_seconds: f64,
    /// Their price; `None` where there is none.
    pub cost: Option<f64>,
    /// Of the price.
    pub currency: Option<String>,
}

/// What a model with a pipeline has taken on a provider so far; younger jobs count more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Rate {
    /// Records with an outcome.
    pub records: f64,
    /// Bytes of their objects.
    pub bytes: f64,
    /// Device-seconds of what was committed.
    pub device_seconds: f64,
    /// From the first claim to the end.
    pub wall_seconds: f64,
    /// Price of those device-seconds.
    pub cost: f64,
    /// Of the price; `None` where there was none.
    pub currency: Option<String>,
}

impl Rate {
    /// What earlier jobs weigh beside the one that ended last.
    const KEPT: f64 = 0.5;

    /// Takes in what one more job took.
    #[must_use]
    pub fn then(self, job: Rate) -> Self {
        // Prices in two currencies do not add up.
        let cost = if self.currency == job.currency { self.cost * Self::KEPT } else { 0.0 };
        Self {
            records: self.records * Self::KEPT + job.records,
            bytes: self.bytes * Self::KEPT + job.bytes,
            device_seconds: self.device_seconds * Self::KEPT + job.device_seconds,
            wall_seconds: self.wall_seconds * Self::KEPT + job.wall_seconds,
            cost: cost + job.cost,
            currency: job.currency,
        }
    }

    /// What that many records would take; `None` when nothing was measured.
    pub fn of_records(&self, provider: &str, records: u64) -> Option<Estimate> {
        (self.records > 0.0).then(|| self.scaled(provider, records as f64 / self.records))
    }

    /// What that many bytes of objects would take, if they are written as the measured ones were.
    pub fn of_bytes(&self, provider: &str, bytes: u64) -> Option<Estimate> {
        (self.bytes > 0.0).then(|| self.scaled(provider, bytes as f64 / self.bytes))
    }

    fn scaled(&self, provider: &str, by: f64) -> Estimate {
        Estimate {
            basis: Basis::Measured,
            provider: provider.to_owned(),
            seconds: self.wall_seconds * by,
            device_seconds: self.device_seconds * by,
            cost: self.currency.is_some().then_some(self.cost * by),
            currency: self.currency.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_of_one_provider_and_of_an_hour() {
        let pricing = Pricing { currency: "EUR".to_owned(), per_hour: BTreeMap::from([("cpu".to_owned(), 0.36)]) };
        let spent = Spent::new("cpu", 100.0, Some(&pricing));
        assert!((spent.cost - 0.01).abs() < 1e-12 && spent.currency.as_deref() == Some("EUR"), "{spent:?}");
        assert_eq!(Spent::new("cuda", 100.0, Some(&pricing)), Spent { device_seconds: 100.0, ..Spent::default() });
        assert_eq!(Spent::new("cpu", 100.0, None).currency, None);
    }

    #[test]
    fn younger_jobs_count_more_and_estimates_are_in_proportion() {
        let job = |records: f64, seconds: f64| Rate {
            records,
            bytes: records * 10.0,
            device_seconds: seconds * 2.0,
            wall_seconds: seconds,
            cost: seconds / 100.0,
            currency: Some("EUR".to_owned()),
        };
        let rate = Rate::default().then(job(1000.0, 10.0)).then(job(1000.0, 40.0));
        let estimate = rate.of_records("cpu", 3000).unwrap();
        assert_eq!((estimate.seconds, estimate.device_seconds, estimate.cost), (90.0, 180.0, Some(0.9)));
        assert_eq!(rate.of_bytes("cpu", 30_000).unwrap(), estimate);
        assert_eq!(Rate::default().of_records("cpu", 5), None);
        assert_eq!(rate.then(Rate { currency: None, cost: 0.0, ..job(1.0, 1.0) }).of_records("cpu", 1).unwrap().cost, None);
    }
}
