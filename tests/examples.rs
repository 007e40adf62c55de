//! What the examples claim: the layer of `examples/train.rs` learns, in fewer steps than it takes by itself.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "../examples/train.rs"]
mod train;

use selscan::Cpu;

#[test]
fn a_layer_learns() {
    let (first, last) = train::train(&Cpu::with_threads(2).unwrap().into(), 400).unwrap();
    assert!(
        first >= 100.0 * last,
        "the loss went from {first} to {last}"
    );
}
