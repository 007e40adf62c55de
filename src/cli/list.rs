//! `selscan list`: the catalogue. In: nothing. Out: every model with its class, its algorithms and its source.

use selscan_dsl::{Scan, prepare};
use selscan_models::CATALOGUE;
use serde_json::json;

use super::failure::Failure;
use super::report::{Report, table};
use super::source::Source;

/// Lists the catalogue.
pub fn list() -> Result<Report, Failure> {
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for model in CATALOGUE {
        let r = Source::of(model)?.recurrence;
        let scans = prepare(&r, &|_| true, false);
        let mut classes: Vec<String> = scans.iter().map(|s| s.class.to_string()).collect();
        classes.dedup();
        let class = classes.join("; ");
        let chunked = scans.iter().all(Scan::is_diagonal);
        let algorithms = if chunked {
            "sequential, chunked"
        } else {
            "sequential"
        };
        rows.push(
            [model.name, &class, algorithms, model.source]
                .map(str::to_owned)
                .to_vec(),
        );
        all.push(json!({
            "name": model.name, "source": model.source, "class": class,
            "algorithms": algorithms.split(", ").collect::<Vec<_>>(), "text": model.text.trim(),
        }));
    }
    let text = table(&["model", "class", "algorithms", "source"], &rows, &[]);
    Ok(Report::new(
        text,
        json!({ "command": "list", "models": all }),
    ))
}
