//! What is tried first, by how many channels and states there are.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::plan::Plan;
use crate::target::Target;
use selscan_dsl::Recurrence;
use selscan_dsl::scan::prepare;

/// The first schedule worth trying for a text in f32 with extents by name.
fn first_of(text: &str, extents: &[(&str, usize)], save: u32) -> Schedule {
    let scans = prepare(&Recurrence::parse(text).unwrap(), &|_| true, false);
    let rec = &scans[0].recurrence;
    let structure = Structure::of(rec);
    let gpu = Target::h200().gpu.unwrap();
    let options = Options {
        save,
        ..Options::default()
    };
    let extent = |name: &str| extents.iter().find(|(n, _)| *n == name).unwrap().1;
    let extents = Extents(rec.axes.iter().map(|a| extent(&a.name)).collect());
    let fits = |s: &Schedule| Plan::new(&scans[0], &extents, &options, &Target::h200(), s).is_ok();
    let all = proposals((&scans[0], &structure), &extents, &options, &gpu);
    all.into_iter().find(fits).unwrap()
}

/// That of a selective scan whose channels are innermost.
fn first(batch: usize, steps: usize, channels: usize, save: u32) -> Schedule {
    let text = "fn scan(u: Tensor<B, L, D>, delta: Tensor<B, L, D>, a: Tensor<D, N>, b: Tensor<B, L, N>, h: State<B, D, N>) \
                -> Tensor<B, L, D> { h = exp(delta * a) * h + delta * b * u; sum::<N>(h) }";
    let extents = [("B", batch), ("L", steps), ("D", channels), ("N", 16)];
    first_of(text, &extents, save)
}

#[test]
fn large_states_have_as_many_threads_as_their_channels_leave_idle() {
    let text = "fn linear(q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>, h: State<B, H, K, V>) \
                -> Tensor<B, L, H, V> { h = h + k * v; sum::<K>(q * h) }";
    let of = |batch| {
        let extents = [("B", batch), ("L", 1024), ("H", 8), ("K", 128), ("V", 128)];
        let s = first_of(text, &extents, 0);
        (s.order, s.warp, s.ahead)
    };
    assert_eq!(of(1), (Order::Scanned, 16, 1));
    assert_eq!(of(2), (Order::Registers, 16, 1));
    assert_eq!(of(4), (Order::Registers, 8, 1));
    assert_eq!(of(16), (Order::Registers, 4, 1));
}

#[test]
fn channels_last_share_states_where_they_are_too_few_for_a_thread_each() {
    let many = first(64, 512, 2048, 0);
    assert_eq!((many.order, many.warp), (Order::Registers, 1));
    let some = first(8, 2048, 2048, 0);
    assert_eq!(
        (some.order, some.warp, some.threads),
        (Order::Staged, 4, 512)
    );
    assert_eq!(some.algorithm, Algorithm::Sequential);
    // Eight chunks of 16 blocks.
    let few = first(1, 65536, 2048, 0);
    assert_eq!((few.order, few.warp, few.threads), (Order::Staged, 4, 512));
    assert_eq!(few.algorithm, Algorithm::Chunked { chunk: 8192 });
    // What saves states is as it was.
    assert_eq!(first(8, 2048, 2048, 16).order, Order::Registers);
}

#[test]
fn what_no_other_order_fits_is_run_by_a_quarter_as_many_threads_as_a_step_has_points() {
    let gru = "#[ssm_kernel(H2 = H)] fn rnn(x: Tensor<B, L, H>, w: Tensor<H, H2>, h: State<B, H>) -> Tensor<B, L, H> \
               { h = tanh(sum::<H2>(w * alias::<H, H2>(h)) + x); h }";
    let of = |batch, hidden| {
        let extents = [("B", batch), ("L", 64), ("H", hidden), ("H2", hidden)];
        let s = first_of(gru, &extents, 0);
        (s.order, s.warp, s.threads)
    };
    assert_eq!(of(1, 128), (Order::Stepped, 512, 512));
    assert_eq!(of(1, 32), (Order::Stepped, 256, 256));
    // A thread holds small states, but makes no matrix product while others are idle.
    assert_eq!(of(1, 5).0, Order::Registers);
    assert_eq!(of(1 << 20, 32).0, Order::Registers);
}

#[test]
fn blocks_leave_the_fullest_multiprocessor_the_least_to_do() {
    // 16 warps everywhere: the largest blocks.
    assert_eq!(balanced(8 * 2048 * 4, 4, 132, 2048)[0], (512, 1));
    // 128 blocks of 10 warps; of 128 threads, 320 would have been 2 or 3 a multiprocessor.
    assert_eq!(balanced(2 * 5120 * 4, 4, 132, 5120)[0], (320, 1));
    // No block of 80 channels divides 4096 of them.
    assert_eq!(balanced(2 * 4096 * 4, 4, 132, 4096)[0], (256, 2));
}
