//! `nightshift completions` and `nightshift man`: made from the command line's own definition.

use super::{show, stop::Outcome};
use crate::config;

pub(super) fn completions(settings: &config::Completions) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(settings.shell, &mut config::command(), "nightshift", &mut script);
    show::print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(settings: &config::Man) -> Outcome {
    let Some(folder) = &settings.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(config::command().disable_help_subcommand(true)).render(&mut page).map_err(|e| e.to_string())?;
        return show::print(&String::from_utf8_lossy(&page));
    };
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(config::command(), folder).map_err(failed)?;
    Ok(())
}
