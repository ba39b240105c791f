//! Runs a part of a decoding library, and makes its errors and panics into sentences.

use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// What `work` gives, or what is wrong with the data.
pub(super) fn caught<T, E: Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    // What `work` borrows is dropped after a failure and never looked at again.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
            Err(format!("the data make no sense: {}", message.unwrap_or_else(|| "the reader gave up".into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_fault_of_the_file() {
        let work = |fails: bool| -> Result<i32, String> { if fails { panic!("index 7 out of 3") } else { Ok(5) } };
        assert_eq!(caught(|| work(false)), Ok(5));
        assert_eq!(caught(|| work(true)), Err("the data make no sense: index 7 out of 3".to_owned()));
    }
}
