use selscan::prelude::*;

#[ssm_kernel]
struct Scan {
    u: [f32; 4],
}

fn main() {
    let scan = Scan { u: [0.0; 4] };
    let _ = scan.u;
}
