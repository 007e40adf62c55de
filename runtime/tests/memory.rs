//! Code lives as long as a kernel that uses it. A process of its own, so that nobody else makes code meanwhile.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{MAMBA, cpu, recurrence};
use selscan_runtime::{Dtype, Kernel, Spec};

/// Bytes of executable memory of this process that belong to no file.
fn executable() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let code = |line: &&str| line.contains(" r-xp ") && line.split_whitespace().count() == 5;
    let bytes = |line: &str| {
        let (first, end) = line.split_whitespace().next()?.split_once('-')?;
        Some(usize::from_str_radix(end, 16).ok()? - usize::from_str_radix(first, 16).ok()?)
    };
    maps.lines()
        .filter(code)
        .map(|line| bytes(line).unwrap())
        .sum()
}

#[test]
fn code_is_freed_with_the_last_kernel() {
    let cpu = cpu(1);
    let r = recurrence(MAMBA);
    let spec = Spec::new(&r, Dtype::F32);
    let before = executable();
    let kernel = cpu.kernel(r.clone());
    let other = cpu.kernel(r);
    let compile = |kernel: &Kernel, n: usize| {
        let extents = [("B", 1), ("L", 10), ("D", 8), ("N", n)];
        let compiled = kernel.compile(&spec, &kernel.extents(&extents).unwrap());
        compiled.unwrap();
        executable()
    };
    let first = compile(&kernel, 1);
    assert!(first > before);
    let all = (2..=6).map(|n| compile(&kernel, n)).max().unwrap();
    assert!(all > first);
    // Equal code is the same code.
    assert_eq!(compile(&other, 1), all);
    let clone = kernel.clone();
    drop(kernel);
    assert_eq!(executable(), all);
    drop(clone);
    assert_eq!(executable(), first);
    drop(other);
    assert_eq!(executable(), before);
}
