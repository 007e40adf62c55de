//! The kernel that a command is about. In: the name of a model, or a file. Out: [`Source`].

use std::path::Path;

use selscan_dsl::{Recurrence, parse_file, parse_syntax};
use selscan_models::{CATALOGUE, Model, model};

use super::failure::{Failure, KernelText};

/// A kernel.
pub struct Source {
    /// What it computes.
    pub recurrence: Recurrence,
    /// Its text as written.
    pub text: String,
    /// The model of the catalogue that it is, if it is one.
    pub model: Option<&'static Model>,
}

impl Source {
    /// The model of that name, or the kernel in the file of that name (`kernel` says which of several).
    pub fn load(named: &str, kernel: Option<&str>) -> Result<Source, Failure> {
        let path = Path::new(named);
        match model(named) {
            Some(found) if kernel.is_none_or(|k| k == found.name) => Source::of(found),
            Some(_) => Err(Failure::Usage(format!(
                "{named} is a model, not a file: leave out --kernel"
            ))),
            None if path.extension().is_some()
                || path.components().count() > 1
                || path.is_file() =>
            {
                Source::file(path, kernel)
            }
            None => Err(Failure::Usage(format!(
                "'{named}' is neither a model nor a file; `selscan list` shows the models{}, and a file is named like scan.rs",
                like(named).map_or(String::new(), |m| format!(" ({m}?)"))
            ))),
        }
    }

    /// A model of the catalogue.
    pub fn of(model: &'static Model) -> Result<Source, Failure> {
        let recurrence = model
            .recurrence()
            .map_err(|error| mistakes(model.name, model.text, error))?;
        Ok(Source {
            recurrence,
            text: model.text.trim().to_owned(),
            model: Some(model),
        })
    }

    fn file(path: &Path, kernel: Option<&str>) -> Result<Source, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, e))?;
        let name = path.display().to_string();
        let mut all = parse_file(&text).map_err(|e| mistakes(&name, &text, e))?;
        let names: Vec<String> = all.iter().map(|r| r.name.clone()).collect();
        let listed = names.join(", ");
        let at = match kernel {
            Some(wanted) => names.iter().position(|n| n == wanted).ok_or_else(|| {
                Failure::Usage(format!("{name} has no kernel '{wanted}'; it has {listed}"))
            })?,
            None if names.len() == 1 => 0,
            None if names.is_empty() => {
                return Err(Failure::Usage(format!(
                    "{name} has no kernel; write one as a function with #[ssm_kernel]"
                )));
            }
            None => {
                return Err(Failure::Usage(format!(
                    "{name} has several kernels; choose with --kernel: {listed}"
                )));
            }
        };
        let recurrence = all.swap_remove(at);
        let written = parse_syntax(&text).ok().and_then(|mut kernels| {
            let at = kernels
                .iter()
                .position(|k| k.name.text == recurrence.name)?;
            Some(kernels.swap_remove(at).to_string())
        });
        Ok(Source {
            text: written
                .unwrap_or_else(|| recurrence.to_string())
                .trim()
                .to_owned(),
            recurrence,
            model: None,
        })
    }
}

fn mistakes(name: &str, text: &str, error: selscan_dsl::ParseError) -> Failure {
    Failure::Text(Box::new(KernelText {
        name: name.to_owned(),
        text: text.to_owned(),
        error,
    }))
}

/// Models whose names share a part with `named`.
fn like(named: &str) -> Option<String> {
    let close = CATALOGUE
        .iter()
        .filter(|m| m.name.contains(named) || named.contains(m.name));
    let names: Vec<&str> = close.map(|m| m.name).take(4).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
