//! Plain scalar Rust: Mamba's selective scan as one writes it first, with std's `exp`. What speeds are compared with.
//!
//! In: f32 tensors, channels last. Out: y. The command line and the benchmarks share this file.
//!
//! ```text
//! Δ = softplus(delta + delta_bias);  h = exp(Δ A) h + Δ B u;  y = (Σₙ C h + D u) silu(z)
//! ```

/// A selective scan: its extents and its inputs.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    /// Sequences.
    pub batch: usize,
    /// Steps.
    pub steps: usize,
    /// Channels.
    pub channels: usize,
    /// States of a channel.
    pub states: usize,
    /// [batch, steps, channels]
    pub u: &'a [f32],
    /// [batch, steps, channels]
    pub delta: &'a [f32],
    /// [channels, states]
    pub a: &'a [f32],
    /// [batch, steps, states]
    pub b: &'a [f32],
    /// [batch, steps, states]
    pub c: &'a [f32],
    /// [channels]
    pub d: &'a [f32],
    /// [batch, steps, channels]
    pub z: &'a [f32],
    /// [channels]
    pub delta_bias: &'a [f32],
}

/// log(1 + exp(x)), the identity above 20 as in PyTorch.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// Writes y, [batch, steps, channels]; the states start at 0.
pub fn selective_scan(p: &Problem<'_>, y: &mut [f32]) {
    let n = p.states;
    for batch in 0..p.batch {
        let mut h = vec![0.0f32; p.channels * n];
        for step in 0..p.steps {
            let row = batch * p.steps + step;
            let b = &p.b[row * n..][..n];
            let c = &p.c[row * n..][..n];
            for channel in 0..p.channels {
                let at = row * p.channels + channel;
                let delta = softplus(p.delta[at] + p.delta_bias[channel]);
                let u = p.u[at];
                let a = &p.a[channel * n..][..n];
                let h = &mut h[channel * n..][..n];
                let mut sum = p.d[channel] * u;
                for i in 0..n {
                    h[i] = (delta * a[i]).exp() * h[i] + delta * b[i] * u;
                    sum += c[i] * h[i];
                }
                let z = p.z[at];
                y[at] = sum * (z / (1.0 + (-z).exp()));
            }
        }
    }
}
