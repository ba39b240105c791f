//! Which devices to compute on.

use std::{fmt, str::FromStr};

use crate::runner::infer::has_devices;

/// Most devices of one machine.
const MOST: usize = 64;

/// Devices by number, or all that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    /// Every one that the machine has, where the providers have devices.
    All,
    /// These.
    These(Vec<u32>),
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let advice = "write all, or the numbers of devices with commas between them: 0,1";
        let numbers = text.split(',').map(|number| number.trim().parse::<u32>().map_err(|_| format!("{number:?} is no number: {advice}")));
        let numbers = numbers.collect::<Result<Vec<u32>, _>>()?;
        if numbers.len() > MOST {
            return Err(format!("more than {MOST} devices: {advice}"));
        }
        match numbers.iter().enumerate().find(|(at, number)| numbers[..*at].contains(number)) {
            Some((_, twice)) => Err(format!("{twice} stands there twice: each device has one runner")),
            None => Ok(Self::These(numbers)),
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::These(numbers) => f.write_str(&numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

impl Devices {
    /// The devices to use for these providers, one at least: on a processor everything is one device, and where no other is found
    /// the provider has to say why.
    pub fn numbers(&self, providers: &[String]) -> Vec<u32> {
        let found = match self {
            Self::These(numbers) => numbers.clone(),
            Self::All if providers.iter().any(|provider| has_devices(provider)) => nvidia(),
            Self::All => Vec::new(),
        };
        if found.is_empty() { vec![0] } else { found }
    }
}

/// The devices that NVIDIA's driver shows. CUDA numbers them from 0 in an order of its own, and those alone that it may use: only their
/// count is taken.
fn nvidia() -> Vec<u32> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let nodes = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_str().and_then(|name| name.strip_prefix("nvidia")).is_some_and(|rest| rest.parse::<u32>().is_ok())
    });
    let count = counted(nodes.count(), visible.as_deref());
    (0..count as u32).collect()
}

/// How many of `present` devices CUDA uses where `CUDA_VISIBLE_DEVICES` says so much: those before the first that is none.
fn counted(present: usize, visible: Option<&str>) -> usize {
    let Some(visible) = visible else { return present };
    let named = visible.split(',').map(str::trim).take_while(|name| !name.is_empty() && !name.starts_with('-')).count();
    named.min(present)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_all_or_numbers_without_repetition() {
        assert_eq!("all".parse(), Ok(Devices::All));
        assert_eq!("0, 2".parse(), Ok(Devices::These(vec![0, 2])));
        for wrong in ["", "gpu", "0,", "1,1", "-1"] {
            assert!(wrong.parse::<Devices>().is_err(), "{wrong}");
        }
        assert_eq!(Devices::These(vec![0, 2]).to_string().parse(), Ok(Devices::These(vec![0, 2])));
    }

    #[test]
    fn a_processor_is_one_device_unless_more_are_asked_for() {
        let cpu = ["cpu".to_owned()];
        assert_eq!(Devices::All.numbers(&cpu), [0]);
        assert_eq!(Devices::These(vec![0, 1]).numbers(&cpu), [0, 1]);
    }

    #[test]
    fn devices_that_cuda_may_not_use_do_not_count() {
        for (visible, count) in [(None, 4), (Some(""), 0), (Some("-1"), 0), (Some("2"), 1), (Some("0,1"), 2), (Some("1,-1,0"), 1)] {
            assert_eq!(counted(4, visible), count, "{visible:?}");
        }
        assert_eq!(counted(1, Some("GPU-1a,GPU-2b")), 1, "no more than there are");
    }
}
