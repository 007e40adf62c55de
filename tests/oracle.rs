//! temp
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code)]
#[path = "oracle/generate.rs"]
mod generate;
use generate::{Tape, generate};

#[test]
fn gen_parses() {
    let mut seed = 12345u64;
    let mut bad = 0;
    for _ in 0..3000 {
        let bytes: Vec<u8> = (0..160).map(|_| { seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); (seed >> 40) as u8 }).collect();
        let case = generate(&mut Tape::new(&bytes));
        if let Err(e) = selscan_dsl::Recurrence::parse(&case.text) {
            bad += 1;
            if bad < 6 { println!("{}\n{e}", case.text); }
        }
    }
    println!("bad {bad}");
    assert_eq!(bad, 0);
}
