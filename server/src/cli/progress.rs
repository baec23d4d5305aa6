//! How does somebody who waits see that work goes on?

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error, where that is a terminal; nothing elsewhere. `total` counts items of what `prefix` says.
pub(crate) fn bar(prefix: &'static str, total: Option<u64>) -> ProgressBar {
    if !on_terminal() {
        return ProgressBar::hidden();
    }
    let template = match total {
        Some(_) => "{prefix} {bar:30} {pos}/{len} {msg}",
        None => "{prefix} {pos} {msg}",
    };
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.with_prefix(prefix).with_style(style(template))
}

/// A bar that counts bytes.
pub(crate) fn bytes_bar(total: u64) -> ProgressBar {
    ProgressBar::new(total).with_style(style("{msg} {bar:30} {bytes}/{total_bytes}"))
}

/// Whether a person sees standard error.
pub(crate) fn on_terminal() -> bool {
    io::stderr().is_terminal()
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_right() {
        for template in ["{prefix} {bar:30} {pos}/{len} {msg}", "{msg} {bar:30} {bytes}/{total_bytes}"] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
