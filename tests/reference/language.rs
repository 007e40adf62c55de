//! Two whole language models of transformers, composed of the catalogue's kernels: a batch at once, then a prompt and
//! one token at a time from the states that the prompt left.

use std::collections::BTreeMap;

use selscan_dsl::{Array, Inputs};

use super::composed::{close, run};
use super::packing::linear;
use super::tensors;

/// Folders, each with the weights and the reference's outputs.
pub const MODELS: [&str; 2] = ["hf-mamba-tiny", "hf-mamba2-tiny"];

/// What a layer remembers: the convolution's window and the scan's state.
#[derive(Clone, Default)]
struct Cache {
    window: Option<Array>,
    state: Option<Array>,
}

struct Language {
    weights: BTreeMap<String, Array>,
    second: bool,
}

/// The last axis in parts of the given sizes.
fn split(x: &Array, sizes: &[usize]) -> Vec<Array> {
    let last = x.shape.len() - 1;
    let ends = sizes.iter().scan(0, |end, size| {
        *end += size;
        Some(*end)
    });
    ends.zip(sizes)
        .map(|(end, size)| x.slice(last, end - size..end))
        .collect()
}

fn reshaped(x: &Array, last: &[usize]) -> Array {
    Array::real(&[&x.shape[..2], last].concat(), x.data.clone())
}

/// Each of `groups` parts of the last axis over its root mean square, times the weights.
fn rms_norm(x: &Array, weight: &Array, groups: usize) -> Array {
    let width = weight.data.len() / groups;
    let mut out = x.clone();
    for (i, part) in out.data.chunks_mut(width).enumerate() {
        let mean = part.iter().map(|x| x * x).sum::<f64>() / width as f64;
        let weights = &weight.data[i % groups * width..];
        for (x, w) in part.iter_mut().zip(weights) {
            *x *= w / (mean + 1e-5).sqrt();
        }
    }
    out
}

impl Language {
    fn weight(&self, layer: usize, name: &str) -> Array {
        self.weights[&format!("backbone.layers.{layer}.{name}")].clone()
    }

    fn project(&self, x: &Array, layer: usize, name: &str) -> Array {
        let weight = self.weight(layer, &format!("mixer.{name}.weight"));
        linear(x, &weight, &Array::filled(&[weight.shape[0]], false, 0.0))
    }

    /// A = −exp(A_log).
    fn decay(&self, layer: usize) -> Array {
        let mut a = self.weight(layer, "mixer.A_log");
        a.data.iter_mut().for_each(|x| *x = -x.exp());
        a
    }

    /// silu(conv1d(x)) over [B, L, D].
    fn convolve(&self, x: &Array, layer: usize, cache: &mut Cache) -> Array {
        let mut weight = self.weight(layer, "mixer.conv1d.weight");
        weight.shape.remove(1);
        let mut inputs = Inputs::new()
            .with("x", x.permuted(&[0, 2, 1]))
            .with("weight", weight)
            .with("bias", self.weight(layer, "mixer.conv1d.bias"))
            .with_flag("activation");
        inputs
            .initial
            .extend(cache.window.take().map(|w| ("window".to_owned(), w)));
        let mut out = run("causal_conv1d", &inputs);
        cache.window = out.last.remove("window");
        out.tensors["out"].permuted(&[0, 2, 1])
    }

    /// Gu & Dao 2023, Figure 3.
    fn mamba(&self, x: &Array, layer: usize, cache: &mut Cache) -> Array {
        let parts = split(&self.project(x, layer, "in_proj"), &[64, 64]);
        let u = self.convolve(&parts[0], layer, cache);
        let selected = split(&self.project(&u, layer, "x_proj"), &[2, 8, 8]);
        let mut inputs = Inputs::new()
            .with("delta", self.project(&selected[0], layer, "dt_proj"))
            .with("delta_bias", self.weight(layer, "mixer.dt_proj.bias"))
            .with("a", self.decay(layer))
            .with("b", selected[1].clone())
            .with("c", selected[2].clone())
            .with("d", self.weight(layer, "mixer.D"))
            .with("z", parts[1].clone())
            .with("u", u)
            .with_flag("delta_softplus");
        inputs
            .initial
            .extend(cache.state.take().map(|h| ("h".to_owned(), h)));
        let mut out = run("selective_scan", &inputs);
        cache.state = out.last.remove("h");
        self.project(&out.tensors["out"], layer, "out_proj")
    }

    /// Dao & Gu 2024, Figure 6, with the norm, over each group, behind the gate.
    fn mamba2(&self, x: &Array, layer: usize, cache: &mut Cache) -> Array {
        let parts = split(&self.project(x, layer, "in_proj"), &[64, 96, 8]);
        let xbc = split(&self.convolve(&parts[1], layer, cache), &[64, 16, 16]);
        let mut inputs = Inputs::new()
            .with("x", reshaped(&xbc[0], &[8, 8]))
            .with("b", reshaped(&xbc[1], &[2, 8]))
            .with("c", reshaped(&xbc[2], &[2, 8]))
            .with("z", reshaped(&parts[0], &[8, 8]))
            .with("dt", parts[2].clone())
            .with("dt_bias", self.weight(layer, "mixer.dt_bias"))
            .with("a", self.decay(layer))
            .with("d", self.weight(layer, "mixer.D"))
            .with_flag("dt_softplus");
        inputs
            .initial
            .extend(cache.state.take().map(|s| ("s".to_owned(), s)));
        let mut out = run("ssd", &inputs);
        cache.state = out.last.remove("s");
        let y = rms_norm(
            &reshaped(&out.tensors["out"], &[64]),
            &self.weight(layer, "mixer.norm.weight"),
            2,
        );
        self.project(&y, layer, "out_proj")
    }

    /// Logits [B, L, vocabulary] of tokens [B, L], and the states after them.
    fn forward(&self, ids: &Array, caches: &mut [Cache; 2]) -> Array {
        let embeddings = &self.weights["backbone.embeddings.weight"];
        let width = embeddings.shape[1];
        let embed = |&id: &f64| &embeddings.data[id as usize * width..(id as usize + 1) * width];
        let data = ids.data.iter().flat_map(embed).copied().collect();
        let mut x = Array::real(&[ids.shape[0], ids.shape[1], width], data);
        for (layer, cache) in caches.iter_mut().enumerate() {
            let normed = rms_norm(&x, &self.weight(layer, "norm.weight"), 1);
            let mixer = if self.second {
                Self::mamba2
            } else {
                Self::mamba
            };
            let y = mixer(self, &normed, layer, cache);
            x.data.iter_mut().zip(&y.data).for_each(|(x, y)| *x += y);
        }
        let head = self.weights.get("lm_head.weight").unwrap_or(embeddings);
        let x = rms_norm(&x, &self.weights["backbone.norm_f.weight"], 1);
        linear(&x, head, &Array::filled(&[head.shape[0]], false, 0.0))
    }
}

/// Compares one of [`MODELS`] with its reference.
pub fn compare(name: &str) {
    let weights = tensors(&format!("{name}/model.safetensors"));
    let golden = tensors(&format!("{name}/golden.safetensors"));
    let model = Language {
        weights,
        second: name.contains("mamba2"),
    };
    let logits = model.forward(&golden["input_ids"], &mut Default::default());
    close(
        &logits,
        &golden["logits_f64"],
        1e-10,
        &format!("{name} logits"),
    );

    let mut caches: [Cache; 2] = Default::default();
    let prompt = model.forward(&golden["prompt_ids"], &mut caches);
    // The states are stored in f32 only.
    let states = |caches: &[Cache; 2], when: &str| {
        for (layer, cache) in caches.iter().enumerate() {
            let stored = |kind: &str| format!("{kind}_state_{when}_{layer}");
            for (state, kind) in [(&cache.window, "conv"), (&cache.state, "ssm")] {
                let stored = stored(kind);
                close(
                    state.as_ref().unwrap(),
                    &golden[&stored],
                    1e-5,
                    &format!("{name} {stored}"),
                );
            }
        }
    };
    states(&caches, "prompt");
    let mut last = prompt.slice(1, prompt.shape[1] - 1..prompt.shape[1]);
    let mut steps = Vec::new();
    for &id in &golden["generated_ids"].data {
        steps.extend(last.data.iter().copied());
        let best = last
            .data
            .iter()
            .enumerate()
            .max_by(|x, y| x.1.total_cmp(y.1));
        assert_eq!(best.map(|(i, _)| i as f64), Some(id), "{name}");
        last = model.forward(&Array::real(&[1, 1], vec![id]), &mut caches);
    }
    let wanted = &golden["step_logits_f64"];
    close(&Array::real(&wanted.shape, steps), wanted, 1e-10, name);
    states(&caches, "end");
}
