//! Every mistake: a text with its place marked in, the message and the remedy out; each gives one diagnostic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{Recurrence, parse_file};

/// The text without its marks `⟦…⟧`, and the lines and columns of the marks.
fn unmark(marked: &str) -> (String, Vec<(usize, usize)>) {
    let (mut text, mut marks) = (String::new(), Vec::new());
    let (mut line, mut column) = (1, 1);
    for c in marked.chars() {
        match c {
            '⟦' | '⟧' => marks.push((line, column)),
            '\n' => {
                text.push(c);
                (line, column) = (line + 1, 1);
            }
            _ => {
                text.push(c);
                column += 1;
            }
        }
    }
    (text, marks)
}

/// Each `⟦…⟧` of the text is a mistake with the message of the same index, and there is no other.
fn wrong(marked: &str, messages: &[&str]) {
    let (text, marks) = unmark(marked);
    let error = parse_file(&text).map(|r| r.iter().map(Recurrence::to_string).collect::<String>());
    let error = error.expect_err(&text);
    let found: Vec<_> = error
        .diagnostics
        .iter()
        .map(|d| {
            assert!(!d.help.is_empty(), "{d}");
            (
                d.message.as_str(),
                (d.line, d.column),
                (d.end_line, d.end_column),
            )
        })
        .collect();
    let wanted: Vec<_> = messages
        .iter()
        .zip(marks.chunks(2))
        .map(|(message, mark)| (*message, mark[0], mark[1]))
        .collect();
    assert_eq!(found, wanted, "\n{marked}\n{error}");
}

/// A mistake in the body of a kernel of some inputs and states; further inputs are there where used.
fn wrong_body(body: &str, messages: &[&str]) {
    wrong(&kernel(body), messages);
}

fn kernel(body: &str) -> String {
    let uses = |name: &str| body.contains(name);
    let mut params = String::from("x: Tensor<B, L, D>, b: Tensor<D, N>, h: State<B, D>");
    for (name, ty) in [
        ("w", "Complex<B, L, D>"),
        ("zz", "Option<Tensor<B, L, D>>"),
        ("flag", "Flag"),
        ("gr", "Tensor<L, G>"),
    ] {
        if uses(name) {
            params += &format!(", {name}: {ty}");
        }
    }
    format!(
        "#[ssm_kernel(N2 = N)] fn f({params}) -> Tensor<B, L, D> {{\nlet used = x * sum::<N2>(alias::<N, N2>(b)) + h;\n{body}\n}}"
    )
}

#[test]
fn the_body_of_these_tests_is_right() {
    let text = kernel("h = used; h");
    Recurrence::parse(&text).unwrap_or_else(|e| panic!("{text}\n{e}"));
}

/// rustfmt writes `Tensor<>` as `Tensor`.
#[test]
fn a_scalar_needs_no_brackets() {
    let text = "fn f(x: Tensor<L>, k: Tensor<>, o: Option<Complex<>>, s: State<>) -> Tensor<L> { s = k * s + x + re(o); s }";
    assert_eq!(
        Recurrence::parse(&text.replace("<>", "")),
        Recurrence::parse(text)
    );
    assert!(Recurrence::parse(text).is_ok());
}

#[test]
#[rustfmt::skip]
fn signatures() {
    let rest = "-> Tensor<L> { x }";
    for (head, messages) in [
        ("⟦async⟧ fn f(x: Tensor<L>)", &["a kernel is not `async`"][..]),
        ("⟦unsafe⟧ fn f(x: Tensor<L>)", &["a kernel is not `unsafe`"]),
        ("fn f⟦<⟧T: Copy>(x: Tensor<L>)", &["a kernel has no generic parameters"]),
        ("fn f(⟦&⟧self, x: Tensor<L>)", &["a kernel has no `self`"]),
        ("fn f(⟦mut⟧ x: Tensor<L>)", &["a parameter is not `mut`"]),
        ("fn f(⟦x⟧)", &["parameter `x` has no type"]),
        ("fn f(x: ⟦&⟧Tensor<L>)", &["a parameter is not a reference"]),
        ("fn f(x: ⟦(⟧Tensor<L>, Tensor<L>))", &["a parameter is not a tuple"]),
        ("fn f(x: ⟦Tensr⟧<L>)", &["unknown type `Tensr`"]),
        ("fn f(x: ⟦f32⟧)", &["unknown type `f32`"]),
        ("fn f(x: ⟦impl⟧ Copy)", &["expected a type, found `impl`"]),
        ("fn ⟦f⟧(x: Tensor)", &["no input has the time axis `L`"]),
        ("fn f(x: Tensor<L, ⟦3⟧>)", &["expected the name of an axis, found `3`"]),
        ("fn f(x: Tensor<L, Vec⟦<⟧f32>>)", &["expected `,` or `>` after an axis, found `<`"]),
        ("fn f(x: Tensor<L, ⟦'⟧a>)", &["expected the name of an axis, found `'`"]),
        ("fn f(x: Tensor<L>, h: ⟦Option<State<B>>⟧)", &["a state is never optional"]),
        ("fn f(x: ⟦Option⟧<Option<Tensor<L>>>)", &["this is optional already"]),
        ("fn f(x: Tensor<L>, ⟦x⟧: Tensor<L>)", &["two parameters are called `x`"]),
        ("fn f(x: Tensor<L, N, ⟦N⟧>)", &["axis `N` stands twice in one tensor"]),
        ("fn f(⟦PI⟧: Tensor<L>, x: Tensor<L>)", &["`PI` is a constant"]),
        ("fn f(⟦#[reverse]⟧ x: Tensor<L>)", &["`x` is not a state"]),
        ("fn f(⟦#[inline]⟧ x: Tensor<L>)", &["unknown attribute of a parameter"]),
        ("fn f(x: Tensor<L> ⟦=⟧ 3)", &["expected `,` after a parameter, found `=`"]),
    ] {
        wrong(&format!("{head} {rest}"), messages);
    }
    wrong("⟦struct⟧ S;", &["expected a function, found `struct`"]);
    wrong("fn ⟦f⟧(x: Tensor<B>) -> Tensor<B, L> { x }", &["no input has the time axis `L`"]);
    wrong("#[ssm_kernel(time = ⟦T⟧)] fn f(x: Tensor<B, L>) -> Tensor<B, T> { x }", &["no input has the time axis `T`"]);
    wrong("fn ⟦f⟧(x: Tensor<B, T>, h: State<B>) -> Tensor<B, T> { h = h + x; h }", &["no input has the time axis `L`"]);
    wrong("fn f(x: Tensor<L>⟦)⟧ { x }", &["the type of the output is missing"]);
    wrong("fn f(x: Tensor<L>) -> ⟦()⟧ { x }", &["a kernel has at least one output"]);
    wrong("fn f(x: Tensor<L>) -> ⟦f32⟧ { x }", &["unknown type `f32`"]);
    wrong("fn f(x: Tensor<L>) -> ⟦State<L>⟧ { x }", &["an output is not a state"]);
    wrong("fn f(x: Tensor<L>) -> ⟦Option<Tensor<L>>⟧ { x }", &["an output is never optional"]);
    wrong("fn f(x: Tensor<B, L>, h: State<B>) -> ⟦Tensor<B>⟧ { h = h + x; h }", &["the output has no time axis `L`"]);
    wrong("fn f(x: Tensor<L>, h: ⟦State<L>⟧) -> Tensor<L> { h = h + x; h }", &["state `h` has the time axis `L`"]);
    wrong("fn f(x: Tensor<L>, h: State<⟦N⟧>) -> Tensor<L> { h = h + x; sum::<N>(h) }", &["no input has axis `N`, so that its extent is unknown"]);
    wrong(
        "fn f(x: Tensor<L>) -> Tensor<L> where T: Copy { x }"
            .replace("where", "⟦where⟧")
            .as_str(),
        &["a kernel has no `where`"],
    );
    wrong("⟦fn f⟧(x: Tensor<L>) -> Tensor<L>;", &["this kernel has no body"]);
    let axes: Vec<String> = (0..32).map(|i| format!("A{i}")).collect();
    wrong(
        &format!(
            "fn f(x: Tensor<{}, ⟦L⟧>) -> Tensor<L> {{ x }}",
            axes.join(", ")
        ),
        &["a kernel has at most 32 axes, found 33"],
    );
}

#[test]
#[rustfmt::skip]
fn attributes() {
    for (args, messages) in [
        ("⟦tiem⟧ = T", &["no input has axis `tiem`, so that its extent is unknown"][..]),
        ("⟦revers⟧", &["unknown argument `revers`"]),
        ("⟦reverse = yes⟧", &["`reverse` takes no value"]),
        ("reverse, ⟦reverse⟧", &["`reverse` is given twice"]),
        ("time = L, ⟦time⟧ = L", &["`time` is given twice"]),
        ("time = ⟦3⟧", &["expected the name of an axis, found `3`"]),
        ("⟦\"T\"⟧", &["expected an argument, found `\"T\"`"]),
        ("reverse, ⟦bidirectional⟧", &["a bidirectional kernel is its own reverse"]),
        ("⟦N2⟧ = N", &["alias `N2` is never used"]),
        ("⟦N2 = N2⟧", &["axis `N2` is an alias of itself"]),
        ("⟦M = K⟧, K = M", &["axis `M` is an alias of itself"]),
        ("⟦T = L⟧", &["the time axis `L` has no alias"]),
        ("N2 = N, ⟦N2 = L⟧", &["axis `N2` is declared twice"]),
        ("⟦N2⟧ = Q", &["no input has axis `N2`, so that its extent is unknown"]),
    ] {
        let tail = if args.contains("declared") || args.starts_with("N2") {
            "sum::<N2>(alias::<N, N2>(x))"
        } else {
            "sum::<N>(x)"
        };
        wrong(
            &format!("#[ssm_kernel({args})] fn f(x: Tensor<L, N>) -> Tensor<L> {{ {tail} }}"),
            messages,
        );
    }
    wrong("⟦#[ssm_kernel = 1]⟧ fn f(x: Tensor<L>) -> Tensor<L> { x }", &["expected arguments in brackets"]);
    wrong("#[ssm_kernel] ⟦#[ssm_kernel]⟧ fn f(x: Tensor<L>) -> Tensor<L> { x }", &["a second `#[ssm_kernel]`"]);
}

#[test]
#[rustfmt::skip]
fn what_is_not_mathematics() {
    for (body, message) in [
        ("⟦for⟧ i in 0..3 { h = used; } h = used; h", "a `for` loop is not mathematics"),
        ("⟦while⟧ true { } h = used; h", "a `while` loop is not mathematics"),
        ("⟦loop⟧ { break; } h = used; h", "a `loop` is not mathematics"),
        ("h = ⟦if⟧ used > 0 { 1 } else { 2 }; h", "an `if` is not mathematics"),
        ("h = used; ⟦match⟧ h { _ => 1 }", "a `match` is not mathematics"),
        ("h = ⟦{⟧ used }; h", "a block is not mathematics"),
        ("h = ⟦unsafe⟧ { used }; h", "a block is not mathematics"),
        ("h = ⟦|⟧y| y; h", "a closure is not mathematics"),
        ("h = ⟦&⟧used; h", "a reference is not mathematics"),
        ("h = ⟦*⟧used; h", "a dereference is not mathematics"),
        ("h = ⟦!⟧used; h", "a negated condition is not mathematics"),
        ("h = used; ⟦return⟧ h", "a `return` is not mathematics"),
        ("h = used + ⟦[⟧1, 2]; h", "an array is not mathematics"),
        ("h = ⟦used.exp⟧(); h", "`.exp(…)` is a method call"),
        ("h = ⟦used.re⟧; h", "`.re` is a field"),
        ("h = ⟦used[⟧0]; h", "a tensor is not indexed"),
        ("h = used ⟦as⟧ f32; h", "a kernel has no casts"),
        ("h = ⟦vec!⟧[used]; h", "`vec!` is a macro"),
        ("h = used ⟦%⟧ 2; h", "`%` is not part of an expression"),
        ("h = select(used > 0 ⟦&&⟧ x > 0, 1, 0); h", "`&&` is not part of an expression"),
        ("h = used⟦?⟧; h", "`?` is not part of an expression"),
        ("h ⟦+=⟧ used; h", "`+=` is not part of an expression"),
        ("h = used + (h ⟦=⟧ 2); h", "`=` is not part of an expression"),
        ("h = select(0 < used ⟦<⟧ 1, 1, 0); h", "comparisons do not chain"),
        ("h = used * ⟦\"two\"⟧; h", "only numbers are values"),
        ("h = used * ⟦true⟧; h", "only numbers are values"),
        ("h = used * ⟦2.0f32⟧; h", "the suffix `f32` has no meaning here"),
        ("h = used * ⟦1e999⟧; h", "this number is larger than any 64-bit floating-point number"),
        ("h = used * ⟦9007199254740993⟧; h", "this integer is too large to be exact in 64-bit floating point (2^53 is the largest)"),
        ("h = used + ⟦()⟧; h", "`()` is not a value"),
        ("h = used ⟦x⟧; h", "expected an operator or `;`, found `x`"),
        ("h = used * ⟦;⟧ h", "expected an expression, found `;`"),
        ("h = exp(used ⟦x⟧); h", "expected `,` or an operator, found `x`"),
        ("let ⟦mut⟧ y = used; h = y; h", "a `let` never changes"),
        ("let y⟦:⟧ Tensor<B> = used; h = y; h", "a `let` has no type"),
        ("let y⟦;⟧ h = used; h", "expected `=`, found `;`"),
        ("let ⟦(y)⟧ = used; h = y; h", "a tuple has at least two values"),
        ("let ⟦[⟧y] = used; h = y; h", "expected a name or `(`, found `[`"),
        ("⟦used + 1⟧; h = used; h", "this value goes nowhere"),
        ("h = used; ⟦h⟧;", "this value goes nowhere"),
    ] {
        wrong_body(body, &[message]);
    }
    wrong_body("h = ⟦sum::<⟧N>; h", &["`sum::<…>` is not called"]);
    wrong_body("h = ⟦(used)(⟧2); h", &["only a function's name can be called"]);
    wrong("fn f(x: Tensor<L>, h: State<>) -> Tensor<L> { h = h + x; ⟦}⟧", &["the kernel ends without a value"]);
    wrong("fn f(x: Tensor<L>) -> Tensor<L> { x } ⟦⟧}", &["this is not a Rust token, or a bracket that is never closed or opened"]);
}

#[test]
#[rustfmt::skip]
fn names() {
    for (body, message) in [
        ("h = ⟦usde⟧; h", "unknown name `usde`"),
        ("h = used + ⟦nothing⟧; h", "unknown name `nothing`"),
        ("h = ⟦later⟧ + used; let later = x; later", "`later` is used before it is defined"),
        ("h = ⟦expp⟧(used); h", "unknown function `expp`"),
        ("h = used + ⟦exp⟧; h", "`exp` is a function, not a value"),
        ("h = used + ⟦b⟧(2); h", "`b` is a value, not a function"),
        ("h = ⟦f64::exp⟧(used); h", "unknown function `f64::exp`"),
        ("h = used; ⟦h⟧ = used; h", "state `h` is assigned twice"),
        ("⟦x⟧ = used; h = used; h", "`x` is an input, and only states are assigned"),
        ("⟦used⟧ = x; h = used; h", "`used` is a `let`, and only states are assigned"),
        ("⟦hh⟧ = used; h", "`hh` is not a state of this kernel"),
        ("⟦other⟧ = used; h = used; h", "`other` is not a state of this kernel"),
        ("let ⟦h⟧ = used; h = used; h", "`h` is a state"),
        ("let ⟦E⟧ = used; h = used; h", "`E` is a constant"),
        ("let ⟦y⟧ = used; h = used; h", "`let` `y` is never read"),
        ("let (y, ⟦v⟧) = discretize::zoh(x, x, x); h = used * y; h", "`let` `v` is never read"),
        ("let (y, v) = ⟦used⟧; h = y + v; h", "expected 2 values, found one value"),
        ("let (y, v, _) = ⟦discretize::zoh(x, x, used)⟧; h = y + v; h", "expected 3 values, found 2 values"),
        ("h = used + ⟦discretize::zoh(x, x, x)⟧; h", "expected a number, found 2 values"),
    ] {
        wrong_body(body, &[message]);
    }
    wrong(
        "fn f(x: Tensor<L>, ⟦y⟧: Tensor<L>, ⟦z⟧: Flag, ⟦h⟧: State<>, ⟦g⟧: State<>) -> Tensor<L> { h = x; x }",
        &[
            "input `y` is never read",
            "flag `z` is never read",
            "state `h` is never read",
            "state `g` is never assigned",
        ],
    );
    let fine = kernel(
        "let (y, _) = discretize::zoh(x, x, x); let _v = 3; let used = used * y; h = used; h",
    );
    Recurrence::parse(&fine).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
#[rustfmt::skip]
fn calls() {
    for (body, message) in [
        ("h = ⟦exp⟧(used, 2); h", "`exp` takes 1 argument, found 2"),
        ("h = ⟦exp⟧::<N>(used); h", "`exp` takes no axis, found 1"),
        ("h = ⟦discretize::zoh⟧(used, x); h", "`discretize::zoh` takes 3 arguments, found 2"),
        ("h = used + ⟦sum⟧(b); h", "`sum` takes 1 axis in `::<…>`, found 0"),
        ("h = used + ⟦max⟧(b); h", "`max` takes 1 axis in `::<…>`, found 0"),
        ("h = used + ⟦max⟧(b, x, x); h", "`max` takes 2 arguments, found 3"),
        ("h = used + sum::<⟦Q⟧>(b); h", "unknown axis `Q`"),
        ("h = used + sum::<⟦N⟧>(x); h", "the value does not vary over `N`: it has `B`, `L`, `D`"),
        ("h = used + max::<⟦N⟧>(2); h", "the value does not vary over `N`: it has no axis"),
        ("h = used + sum::<⟦L⟧>(x); h", "`L` is the time axis, which is not reduced"),
        ("h = used + index::<⟦L⟧>(); h", "`index` of the time axis is unknown: a sequence may come in pieces, or packed with others"),
        ("h = used + sum::<D>(alias::<D, ⟦N⟧>(x)); h", "`N` is not an alias of `D`"),
        ("h = used + sum::<N2>(alias::<⟦N⟧, N2>(x)); h", "the value does not vary over `N`: it has `B`, `L`, `D`"),
        ("h = used + sum::<N>(alias::<N2, ⟦N⟧>(b * alias::<N, N2>(b))); h", "the value varies over `N` already"),
        ("h = used + sum::<N2>(alias::<N, N2>(⟦b * sum::<N2>(b * alias::<N, N2>(b))⟧)); h", "the value is reduced over `N2` inside"),
        ("h = used + group::<⟦L⟧, D>(gr); h", "`L` is the time axis"),
        ("h = used + group::<G, D>(gr) + sum::<N>(group::<D, N>(⟦h⟧)); h", "`group` reads inputs, and this value reads state `h`"),
        ("h = used + group::<G, D>(gr) + group::<G, D>(⟦index::<G>()⟧); h", "this value depends on the position on `G`, and cannot be grouped"),
        ("h = push_front::<D>(⟦used⟧, 0); h", "`push_front` shifts a state or an input"),
        ("h = used + push_back::<⟦N⟧>(h, 0); h", "the value does not vary over `N`: it has `B`, `L`, `D`"),
        ("h = used + push_back::<⟦L⟧>(h, 0); h", "`L` is the time axis"),
        ("h = push_front::<D>(h, ⟦used⟧); h", "what enters at the end of `D` varies over `D` itself"),
        ("h = used + push_front::<D>(h, ⟦sum::<D>(w)⟧); h", "a complex value is pushed into a real one"),
        ("h = delay(used, ⟦0⟧); h", "`delay` takes a number of steps that is a literal, 1 or more"),
        ("h = delay(used, ⟦-1⟧); h", "`delay` takes a number of steps that is a literal, 1 or more"),
        ("h = delay(used, ⟦1.5⟧); h", "`delay` takes a number of steps that is a literal, 1 or more"),
        ("h = delay(used, ⟦x⟧); h", "`delay` takes a number of steps that is a literal, 1 or more"),
        ("h = delay(used, ⟦257⟧); h", "a delay is at most 256 steps: each is a value to keep"),
        ("h = given(⟦x⟧, used, 0); h", "input `x` is always given"),
        ("h = given(⟦used⟧, used, 0); h", "`used` is not an optional input"),
        ("h = given(⟦x > 0⟧, used, 0); h", "`given` asks for the name of an optional input"),
        ("h = used * given(⟦zy⟧, zz, 0); h", "unknown name `zy`"),
        ("h = used + given(flag, ⟦flag⟧, 0); h", "flag `flag` is not a number"),
        ("h = ⟦given⟧(flag, used); h", "`given` takes 3 arguments, found 2"),
    ] {
        wrong_body(body, &[message]);
    }
}

#[test]
#[rustfmt::skip]
fn types_and_axes() {
    for (body, message) in [
        ("h = used + ⟦(x > 0)⟧; h", "expected a number, found a condition"),
        ("h = ⟦used > 0⟧; h", "expected a number, found a condition"),
        ("h = used; ⟦h > 0⟧", "expected a number, found a condition"),
        ("let p = x > 0; h = select(p, used, ⟦p⟧); h", "expected a number, found a condition"),
        ("h = ⟦select(x, used, 0)⟧; h", "the first argument of `select` is a condition, and a number was found"),
        ("h = select(⟦w > 0⟧, used, 0); h", "complex numbers have no order: `>` takes real numbers"),
        ("h = used + re(⟦max(w, 0)⟧); h", "complex numbers have no order: `max` takes real numbers"),
        ("h = used + re(⟦relu(w)⟧); h", "complex numbers have no order: `<=` takes real numbers"),
        ("h = used + re(⟦max::<D>(w)⟧); h", "complex numbers have no order: `max` takes real numbers"),
        ("h = used + re(⟦tanh(w)⟧); h", "`tanh` takes a real number, and a complex one was found"),
        ("h = used + re(⟦complex(w, 0)⟧); h", "`complex(re, im)` takes two real numbers, and a complex one was found"),
        ("h = ⟦used * w⟧; h", "state `h` is real, but its value is complex"),
        ("h = used; ⟦h * w⟧", "the output is real, but its value is complex"),
        ("h = ⟦used * b⟧; h", "state `h` has `B`, `D`, but its next value also varies over `N`"),
        ("h = used; ⟦h * b⟧", "the output is `Tensor<B, L, D>`, but its value also varies over `N`"),
        ("h = used; ⟦(h, x)⟧", "the kernel declares 1 output value, but ends with 2"),
    ] {
        wrong_body(body, &[message]);
    }
    wrong("fn f(x: Tensor<L>, h: State<>) -> (Tensor<L>, Tensor<L>) { h = h + x; ⟦h⟧ }", &["the kernel declares 2 output values, but ends with 1"]);
    wrong("fn f(x: Tensor<L>, h: State<>, #[reverse] ⟦g⟧: State<>) -> Tensor<L> { let p = g; h = p + x; g = h + x; g }", &["state `g` runs backward and reads `h`, while `h` runs forward and reads `g`"]);
    let staged = "fn f(x: Tensor<L>, h: State<>, #[reverse] g: State<>) -> Tensor<L> { g = g + x; h = h + g; h }";
    Recurrence::parse(staged).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn independent_mistakes_are_all_told_and_none_twice() {
    wrong(
        "fn f(x: Tensor<L, N>, ⟦self⟧, y: ⟦Tensr⟧<L>, h: State<N>) -> Tensor<L> {
            let p = ⟦if⟧ x > 0 { y } else { x };
            let q = p + ⟦exp⟧(p, x) * y;
            h = ⟦exp⟧(q, x) + sum::<⟦Q⟧>(h) + relu(⟦x.abs⟧());
            q + sum::<N>(⟦(h > 0)⟧) + p
        }",
        &[
            "a kernel has no `self`",
            "unknown type `Tensr`",
            "an `if` is not mathematics",
            "`exp` takes 1 argument, found 2",
            "`exp` takes 1 argument, found 2",
            "unknown axis `Q`",
            "`.abs(…)` is a method call",
            "expected a number, found a condition",
        ],
    );
}

#[test]
fn deep_and_long_texts_are_errors() {
    let deep = |n: usize| {
        format!(
            "fn f(x: Tensor<L>) -> Tensor<L> {{ {}x{} }}",
            "(".repeat(n),
            ")".repeat(n)
        )
    };
    assert!(Recurrence::parse(&deep(60)).is_ok());
    for text in [
        deep(100),
        deep(100_000),
        format!(
            "fn f(x: Tensor<L>) -> Tensor<L> {{ {}x }}",
            "-".repeat(100_000)
        ),
        format!(
            "fn f(x: Tensor<L>) -> Tensor<L> {{ x{} }}",
            " + x".repeat(100_000)
        ),
        format!(
            "fn f(x: Tensor<L>) -> Tensor<L> {{ x{} }}",
            "<x".repeat(100_000)
        ),
        format!(
            "fn f(x: Tensor<L>) -> Tensor<L> {{ {}x }}",
            "exp(".repeat(300)
        ),
        format!(
            "fn f(x: {}Tensor<L>) -> Tensor<L> {{ x }}",
            "Option<".repeat(100_000)
        ),
    ] {
        let error = Recurrence::parse(&text).expect_err("too deep");
        assert_eq!(error.diagnostics.len(), 1, "{error}");
    }
}

#[test]
fn files() {
    let text = "//! A file.
        #![allow(unused)]
        use selscan::{prelude::*, ssm_kernel};
        const K: usize = 3;
        struct S { x: f32 }
        fn helper() -> f32 { loop {} }
        #[ssm_kernel] pub(crate) fn f(x: Tensor<L>) -> Tensor<L> { x }
        impl S { fn g(&self) {} }
        /// Twice.
        #[selscan::ssm_kernel(time = T)] fn g(x: Tensor<T>) -> Tensor<T> { 2 * x }";
    let names: Vec<String> = parse_file(text)
        .unwrap()
        .into_iter()
        .map(|r| r.name)
        .collect();
    assert_eq!(names, ["f", "g"]);
    let plain =
        "use a::b; fn f(x: Tensor<L>) -> Tensor<L> { x } fn g(x: Tensor<L>) -> Tensor<L> { x }";
    assert_eq!(parse_file(plain).unwrap().len(), 2);
    let error = Recurrence::parse(plain).expect_err("two kernels");
    assert_eq!(error.diagnostics[0].message, "expected one kernel, found 2");
    assert!(Recurrence::parse("").is_err());
}

#[test]
fn tokens_of_the_macro() {
    let item = "pub fn f(x: Tensor<T>) -> Tensor<T> { x + y }";
    let check =
        |item: &str| crate::check_tokens("time = T".parse().unwrap(), item.parse().unwrap());
    let mistakes = check(item).expect_err("y is unknown");
    assert_eq!(mistakes.len(), 1);
    let error = mistakes[0].to_compile_error().to_string();
    assert!(error.contains("unknown name `y`"), "{error}");
    let (kernel, recurrence) = check(&item.replace('y', "x")).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(
        kernel.to_string().lines().nth(1),
        Some("pub fn f(x: Tensor<T>) -> Tensor<T> {")
    );
    assert_eq!(recurrence.axis_name(recurrence.time), "T");
    assert!(check(&format!("{item} fn g() {{}}")).is_err());
}
