//! Numbers and tables as people read them. In: numbers, cells. Out: text. The command line and the benchmarks share it.

/// A number with a prefix and three digits: `402 M`, `1.34 G`.
fn prefixed(value: f64, unit: &str) -> String {
    let (scaled, prefix) = match value.abs() {
        x if x >= 1e12 => (value / 1e12, "T"),
        x if x >= 1e9 => (value / 1e9, "G"),
        x if x >= 1e6 => (value / 1e6, "M"),
        x if x >= 1e3 => (value / 1e3, "k"),
        _ => return format!("{value:.0} {unit}").trim_end().to_owned(),
    };
    format!("{} {prefix}{unit}", digits(scaled))
}

/// A number of at least 0 with three digits.
pub fn digits(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x => format!("{x:.2}"),
    }
}

/// A share: `83 %`.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A number of bytes.
pub fn bytes(n: f64) -> String {
    prefixed(n, "B")
}

/// A count.
pub fn count(n: f64) -> String {
    prefixed(n, "")
}

/// A number of bytes a second.
pub fn rate(n: f64) -> String {
    prefixed(n, "B/s")
}

/// A time.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{} ns", digits(s * 1e9)),
        s if s < 1e-3 => format!("{} µs", digits(s * 1e6)),
        s if s < 1.0 => format!("{} ms", digits(s * 1e3)),
        s => format!("{} s", digits(s)),
    }
}

/// A table: columns as wide as their widest cell, two blanks between them; numbers are the caller's to align right
/// (`right`, by column).
pub fn table(header: &[&str], rows: &[Vec<String>], right: &[bool]) -> String {
    let header: Vec<String> = header.iter().map(|&h| h.to_owned()).collect();
    let lines = || {
        std::iter::once(&header)
            .filter(|h| !h.is_empty())
            .chain(rows)
    };
    let columns = lines().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        lines()
            .filter_map(|l| l.get(c))
            .map(|s| s.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in lines() {
        let mut text = String::new();
        for (c, cell) in line.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            let gap = if c == 0 { "" } else { "  " };
            match right.get(c) {
                Some(true) => text.push_str(&format!("{gap}{pad}{cell}")),
                _ => text.push_str(&format!("{gap}{cell}{pad}")),
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// Every line of a text, indented.
pub fn indent(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    text.lines()
        .map(|l| format!("{pad}{l}").trim_end().to_owned() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_have_three_digits() {
        use super::{bytes, count, rate, time};
        assert_eq!(bytes(402_653_184.0), "403 MB");
        assert_eq!(bytes(12.0), "12 B");
        assert_eq!(count(50_331_648.0), "50.3 M");
        assert_eq!(rate(1.337e9), "1.34 GB/s");
        assert_eq!(time(0.0581), "58.1 ms");
        assert_eq!(time(2.5e-6), "2.50 µs");
        assert_eq!(time(75.0), "75.0 s");
    }

    #[test]
    fn tables_align() {
        use super::table;
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["bcd".to_owned(), "10".to_owned()],
        ];
        assert_eq!(
            table(&["x", "n"], &rows, &[false, true]),
            "x     n\na     1\nbcd  10\n"
        );
        assert_eq!(table(&[], &rows, &[]), "a    1\nbcd  10\n");
    }
}
