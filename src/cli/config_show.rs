//! `nightshift config`: the settings, and a file to start from.

use super::{show, stop::Outcome};
use crate::config::{self, Config, Form, Setting};

pub(super) fn run(settings: &config::ConfigArgs, all: &[Setting]) -> Outcome {
    match &settings.command {
        Config::Default => show::print(&config::default_file()),
        Config::Show(show) if show.output == Form::Json => show::print_json(&all),
        Config::Show(_) => {
            let value = |setting: &Setting| if setting.value.is_empty() { "-".to_owned() } else { setting.value.join(", ") };
            let rows = all.iter().map(|setting| vec![setting.key.clone(), value(setting), setting.origin.to_string()]);
            show::print(&show::columns(&["SETTING", "VALUE", "ORIGIN"], rows))
        }
    }
}
