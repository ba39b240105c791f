//! How a subcommand ends other than well.

use std::process::ExitCode;

/// Why, and with which exit code.
#[derive(Debug)]
pub(super) struct Stop {
    /// For people, on standard error; empty when all has been said.
    pub(super) message: String,
    pub(super) code: u8,
}

/// What a subcommand comes to.
pub(super) type Outcome = Result<(), Stop>;

impl Stop {
    /// The command line, or what it names, is wrong.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }

    /// It went wrong, and all has been said.
    pub(super) fn said() -> Self {
        Self { message: String::new(), code: 1 }
    }

    pub(super) fn exit(self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("nightshift: {}", self.message);
        }
        ExitCode::from(self.code)
    }
}

impl From<String> for Stop {
    fn from(message: String) -> Self {
        Self { message, code: 1 }
    }
}

impl From<&str> for Stop {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}
