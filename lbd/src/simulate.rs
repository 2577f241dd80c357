//! `lbd simulate`: reading the description, writing the drawing.

use std::fs;
use std::path::Path;

use anyhow::Context;
use common::config::read_text;
use lbd_core::simulate::{self, Workload};

/// A longer description is refused.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Plays a workload, writes the drawing where asked for, and answers the table.
pub(crate) fn simulate(file: &Path, drawing: Option<&Path>) -> anyhow::Result<String> {
    let shown = file.display();
    let text =
        read_text(file, FILE_BYTES_MAX).with_context(|| format!("cannot read the workload {shown}"))?;
    let workload =
        Workload::parse(&text).with_context(|| format!("the workload {shown} cannot be played"))?;
    let report = simulate::run(&workload);
    let mut table = simulate::table(&report);
    if let Some(path) = drawing {
        fs::write(path, simulate::svg(&report))
            .with_context(|| format!("cannot write the drawing to {}", path.display()))?;
        table.push_str(&format!("\ndrawn in {}\n", path.display()));
    }
    Ok(table)
}
