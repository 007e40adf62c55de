//! Random well-formed recurrences from a tape of choices: every tape is a kernel text, shapes and options; a
//! shorter tape is a simpler case, so that proptest's shrinking of the tape shrinks the recurrence.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Choices, read once from the front; 0 when all are read.
pub struct Tape<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Tape<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Tape { bytes, at: 0 }
    }
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte as usize % n
    }
    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
    /// True about once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}

/// A random case.
#[derive(Debug)]
pub struct Case {
    /// The kernel.
    pub text: String,
    /// The extent of each axis by name.
    pub extents: BTreeMap<String, usize>,
    /// Optional inputs that are left out.
    pub absent: Vec<String>,
    /// Whether rows are packed sequences.
    pub packed: bool,
    /// Whether initial states are given.
    pub initial: bool,
    /// How large inputs are.
    pub scale: f64,
}

struct Generator<'t, 'a> {
    tape: &'t mut Tape<'a>,
    params: Vec<String>,
    absent: Vec<String>,
    names: usize,
    /// Whether a group axis G of D is used.
    grouped: bool,
}

const DECAYS: [&str; 5] = [
    "exp(-softplus({}))",
    "sigmoid({})",
    "exp(-0.05 * abs({}))",
    "(0.9 * tanh({}))",
    "exp2(-relu({}))",
];

impl Generator<'_, '_> {
    fn name(&mut self, what: &str) -> String {
        self.names += 1;
        format!("{what}{}", self.names)
    }

    /// An input over some of `axes`, in some order.
    fn input(&mut self, axes: &[&str], complex: bool) -> String {
        let mut own: Vec<&str> = axes
            .iter()
            .copied()
            .filter(|_| self.tape.below(4) != 3)
            .collect();
        if own.len() > 1 && self.tape.one_in(3) {
            let last = own.len() - 1;
            let other = self.tape.below(last);
            own.swap(other, last);
        }
        let name = self.name("x");
        let grouped = !complex && own.contains(&"D") && self.tape.one_in(8);
        let listed: Vec<&str> = own
            .iter()
            .map(|&a| if grouped && a == "D" { "G" } else { a })
            .collect();
        let kind = if complex { "Complex" } else { "Tensor" };
        let mut ty = format!("{kind}<{}>", listed.join(", "));
        if self.tape.one_in(10) {
            ty = format!("Option<{ty}>");
            if self.tape.below(2) == 0 {
                self.absent.push(name.clone());
            }
        }
        self.params.push(format!("{name}: {ty}"));
        if grouped {
            self.grouped = true;
            return format!("group::<G, D>({name})");
        }
        name
    }

    /// A real expression over some of `axes` with values of moderate size.
    fn expr(&mut self, axes: &[&str], depth: usize) -> String {
        if depth == 0 {
            return match self.tape.below(8) {
                7 => format!("{:.2}", 0.25 + self.tape.below(8) as f64 / 4.0),
                _ => self.input(axes, false),
            };
        }
        let d = depth - 1;
        match self.tape.below(14) {
            0 => self.input(axes, false),
            1 => format!("({} + {})", self.expr(axes, d), self.expr(axes, d)),
            2 => format!("({} * {})", self.expr(axes, d), self.expr(axes, d)),
            3 => format!("({} - {})", self.expr(axes, d), self.expr(axes, d)),
            4 => format!(
                "{}({})",
                self.tape.pick(&[
                    "tanh", "sigmoid", "silu", "softplus", "relu", "gelu", "sin", "cos", "abs"
                ]),
                self.expr(axes, d)
            ),
            5 => format!("-{}", self.input(axes, false)),
            6 => format!(
                "({} / (1.5 + sigmoid({})))",
                self.expr(axes, d),
                self.expr(axes, d)
            ),
            7 => format!(
                "{}({}, {})",
                self.tape.pick(&["max", "min"]),
                self.expr(axes, d),
                self.expr(axes, d)
            ),
            8 => {
                let (x, y) = (self.input(axes, false), self.input(axes, false));
                format!(
                    "select({x} < {y}, {}, {})",
                    self.expr(axes, d),
                    self.expr(axes, d)
                )
            }
            9 => format!("rsqrt(1.0 + {0} * {0})", self.input(axes, false)),
            10 => format!("log(1.5 + abs({}))", self.expr(axes, d)),
            11 => format!("phi1(-abs({}))", self.expr(axes, d)),
            12 => format!("expm1(0.5 * sin({}))", self.expr(axes, d)),
            _ => format!("exp(-abs({}))", self.expr(axes, d)),
        }
    }

    fn decay(&mut self, axes: &[&str]) -> String {
        let inner = self.expr(axes, 1);
        self.tape.pick(&DECAYS).replace("{}", &inner)
    }
}

/// The case of a tape.
pub fn generate(tape: &mut Tape<'_>) -> Case {
    let extents_d: usize = tape.pick(&[1, 3, 4, 5, 8, 9, 12, 17, 2]);
    let steps = tape.pick(&[5, 1, 0, 2, 3, 7, 8, 9, 16, 17, 23]);
    let mut g = Generator {
        tape,
        params: vec![],
        absent: vec![],
        names: 0,
        grouped: false,
    };
    let inner: &[&str] = g.tape.pick(&[&["N"], &[], &["N"], &["N", "M"], &["N"]]);
    let reverse = g.tape.one_in(8);
    let bidirectional = !reverse && g.tape.one_in(12);
    let outer = ["B", "D"];
    let state_axes: Vec<&str> = outer.iter().copied().chain(inner.iter().copied()).collect();
    let moving: Vec<&str> = ["B", "L", "D"]
        .into_iter()
        .chain(inner.iter().copied())
        .collect();
    let count = 1 + usize::from(g.tape.one_in(4));
    let mut body = String::new();
    let mut states: Vec<(String, bool)> = vec![];
    let mut alias = false;
    for k in 0..count {
        let h = format!("h{k}");
        let complex = g.tape.one_in(6);
        let own = if k > 0 && g.tape.one_in(4) {
            vec!["B", "D"]
        } else {
            state_axes.clone()
        };
        let moving: Vec<&str> = moving
            .iter()
            .copied()
            .filter(|a| *a == "L" || own.contains(a))
            .collect();
        let mut terms = String::new();
        if k > 0 && own == state_axes && g.tape.below(2) == 0 {
            let (first, first_complex) = &states[0];
            let read = if *first_complex && !complex {
                format!("re({first})")
            } else {
                first.clone()
            };
            let _ = write!(terms, " + 0.3 * {read}");
        }
        let has_n = own.contains(&"N");
        let update = match (complex, g.tape.below(9)) {
            (true, _) => {
                let (r, i, z) = (g.decay(&moving), g.expr(&moving, 1), g.input(&moving, true));
                match g.tape.below(3) {
                    0 => format!("{r} * exp(complex(0.0 * {r}, {i})) * {h} + {z}"),
                    1 => format!("complex({r}, 0.1 * tanh({i})) * {h} + {z} * {i}"),
                    _ => format!("exp(complex(-softplus({i}), {r})) * {h} + conj({z})"),
                }
            }
            (_, 4) => {
                let (x, y) = (g.expr(&moving, 1), g.expr(&moving, 1));
                format!("tanh({x} * {h} + {y})")
            }
            (_, 5) if has_n => {
                let (k1, k2, v) = (
                    g.input(&moving, false),
                    g.input(&moving, false),
                    g.expr(&moving, 0),
                );
                format!("0.6 * {h} + 0.1 * sum::<N>({k1} * {h}) * {k2} + {v}")
            }
            (_, 6) if has_n => {
                alias = true;
                let name = g.name("w");
                g.params.push(format!("{name}: Tensor<N, N2>"));
                let v = g.expr(&moving, 1);
                format!("sum::<N2>(0.2 * {name} * alias::<N, N2>({h})) + {v}")
            }
            (_, 7) if has_n => {
                let fill: Vec<&str> = moving.iter().copied().filter(|a| *a != "N").collect();
                let (v, way) = (g.expr(&fill, 1), g.tape.pick(&["push_front", "push_back"]));
                format!("{way}::<N>({h}, {v})")
            }
            (_, 8) => {
                let x = g.input(&moving, false);
                let a = g.decay(&moving);
                format!("{a} * {h} + delay({x}, {})", 1 + g.tape.below(3))
            }
            (_, 3) => {
                let rule = g.tape.pick(&["mamba", "zoh", "bilinear", "euler", "dirac"]);
                let (delta, a, b, u) = (
                    g.input(&moving, false),
                    g.input(&own, false),
                    g.input(&moving, false),
                    g.expr(&moving, 0),
                );
                let _ = writeln!(
                    body,
                    "    let (ab{k}, bb{k}) = discretize::{rule}(0.5 * sigmoid({delta}), -abs({a}), {b});"
                );
                format!("ab{k} * {h} + bb{k} * {u}")
            }
            _ => {
                let (a, b) = (g.decay(&moving), g.expr(&moving, 2));
                format!("{a} * {h} + {b}")
            }
        };
        let _ = writeln!(body, "    {h} = {update}{terms};");
        let kind = if complex { "ComplexState" } else { "State" };
        g.params.push(format!("{h}: {kind}<{}>", own.join(", ")));
        states.push((h, complex));
    }
    // Every state must reach the output.
    let mut value = Vec::new();
    let whole = !inner.is_empty() && g.tape.one_in(8);
    for (h, complex) in &states {
        let own_inner: Vec<&str> = if g
            .params
            .iter()
            .any(|p| p.starts_with(&format!("{h}:")) && p.contains("N"))
        {
            inner.to_vec()
        } else {
            vec![]
        };
        let c = g.expr(
            &moving
                .iter()
                .copied()
                .filter(|a| own_inner.contains(a) || ["B", "L", "D"].contains(a))
                .collect::<Vec<_>>(),
            1,
        );
        let mut term = if *complex {
            format!("re({c} * {h})")
        } else {
            format!("{c} * {h}")
        };
        if !whole {
            for axis in &own_inner {
                let reduce = if g.tape.one_in(8) { "max" } else { "sum" };
                term = format!("{reduce}::<{axis}>({term})");
            }
        }
        value.push(term);
    }
    let mut value = value.join(" + ");
    if g.tape.below(2) == 0 {
        let gate = g.expr(&["B", "L", "D"], 1);
        value = if g.tape.below(2) == 0 {
            format!("({value}) * silu({gate})")
        } else {
            format!("{value} + {gate}")
        };
    }
    // Extents come from inputs: an axis that no required input has gets one.
    let mut needed = state_axes.clone();
    needed.push("L");
    for axis in needed {
        let has = |p: &String| {
            let ty = p.split_once(": ").map_or("", |(_, ty)| ty);
            !ty.contains("State")
                && !ty.starts_with("Option")
                && ty
                    .split(|c: char| !c.is_alphanumeric())
                    .any(|word| word == axis)
        };
        if !g.params.iter().any(has) {
            let name = g.name("s");
            g.params.push(format!("{name}: Tensor<{axis}>"));
            let kept = whole || ["B", "L", "D"].contains(&axis);
            let _ = write!(
                value,
                " + {}",
                if kept {
                    name
                } else {
                    format!("sum::<{axis}>({name})")
                }
            );
        }
    }
    let mut out_axes = vec!["B", "L", "D"];
    if g.tape.one_in(3) {
        out_axes.swap(1, 2);
    }
    if whole {
        out_axes.extend(inner);
    }
    let mut attributes = Vec::new();
    if reverse {
        attributes.push("reverse");
    }
    if bidirectional {
        attributes.push("bidirectional");
    }
    if alias {
        attributes.push("N2 = N");
    }
    let mut extents = BTreeMap::new();
    let mut put = |name: &str, n: usize| extents.insert(name.to_owned(), n);
    let groups = if extents_d.is_multiple_of(2) && extents_d > 2 {
        extents_d / 2
    } else {
        1
    };
    let n = g.tape.pick(&[4, 1, 2, 3, 5, 7, 8]);
    put("B", g.tape.pick(&[1, 2, 3]));
    put("L", steps);
    put("D", extents_d);
    put("G", groups);
    put("N", n);
    put("N2", n);
    put("M", g.tape.pick(&[2, 1, 3]));
    let text = format!(
        "#[ssm_kernel({})]\nfn case({}) -> Tensor<{}> {{\n{body}    {value}\n}}\n",
        attributes.join(", "),
        g.params.join(", "),
        out_axes.join(", "),
    );
    Case {
        text,
        extents,
        packed: g.tape.one_in(4),
        initial: g.tape.below(2) == 1,
        scale: g.tape.pick(&[1.0, 0.1, 4.0, 1.0]),
        absent: g.absent,
    }
}
