//! The signature: axes, inputs, states and outputs.

use super::{Checker, Meaning};
use crate::axis::{AxisDecl, AxisId, AxisSet, MAX_AXES};
use crate::diagnostic::Loc;
use crate::expr::{Graph, InputId, NodeId, StateId};
use crate::functions;
use crate::recurrence::{InputDecl, InputKind, OutputDecl, StateDecl};
use crate::syntax::{Expr, ExprKind, Name, Param, Type, TypeKind};

impl Checker<'_> {
    /// Declares everything in the signature; `None` where nothing sensible can be said of the body.
    pub(super) fn declare(&mut self) -> Option<()> {
        let kernel = self.kernel;
        self.axes()?;
        for param in &kernel.params {
            self.param(param);
        }
        self.extents();
        for (i, ty) in kernel.outputs.iter().enumerate() {
            let several = kernel.outputs.len() > 1;
            let name = if several {
                format!("out{i}")
            } else {
                "out".to_owned()
            };
            let axes = self.axes_of(ty);
            let told = self.wrong_axes.contains(self.r.time);
            if ty.kind != TypeKind::Error && !axes.contains(&self.r.time) && !told {
                let time = self.r.axis_name(self.r.time).to_owned();
                self.error(
                    ty.loc,
                    format!("the output has no time axis `{time}`"),
                    format!("an output has a value at every step: `Tensor<B, {time}, D>`; the last states are returned to every caller that asks"),
                );
            }
            self.r.outputs.push(OutputDecl {
                name,
                axes,
                complex: ty.kind.is_complex(),
                value: NodeId(0),
                value_im: None,
            });
        }
        let options = &kernel.options;
        if let (Some(_), Some(both)) = (options.reverse, options.bidirectional) {
            self.error(
                both,
                "a bidirectional kernel is its own reverse",
                "leave `reverse` or `bidirectional` out",
            );
        }
        Some(())
    }

    /// Every axis, in the order of first mention, and its alias.
    fn axes(&mut self) -> Option<()> {
        let kernel = self.kernel;
        let options = &kernel.options;
        let types = kernel.params.iter().map(|p| &p.ty).chain(&kernel.outputs);
        let lefts = options.aliases.iter().map(|(left, _)| left);
        let rights = options.aliases.iter().map(|(_, right)| right);
        let time = options.time.clone().unwrap_or_else(|| Name {
            text: "L".to_owned(),
            loc: kernel.name.loc,
        });
        let mut names: Vec<&Name> = Vec::new();
        for name in types
            .flat_map(|ty| &ty.axes)
            .chain(lefts)
            .chain(rights)
            .chain([&time])
        {
            if !names.iter().any(|n| n.text == name.text) {
                names.push(name);
            }
        }
        if let Some(name) = names.get(MAX_AXES) {
            let many = names.len();
            self.error(
                name.loc,
                format!("a kernel has at most {MAX_AXES} axes, found {many}"),
                "merge axes that are always used together",
            );
            return None;
        }
        self.r.axes = names
            .iter()
            .map(|name| AxisDecl {
                name: name.text.clone(),
                alias_of: None,
            })
            .collect();
        self.r.time = self.r.axis_named(&time.text)?;
        self.r.graph = Graph::new(self.r.time);
        self.aliases();
        Some(())
    }

    fn aliases(&mut self) {
        let aliases = &self.kernel.options.aliases;
        let time = self.r.axis_name(self.r.time).to_owned();
        for (i, (left, right)) in aliases.iter().enumerate() {
            let loc = left.loc.to(right.loc);
            let wrong = [left, right].into_iter();
            let wrong: AxisSet = wrong.filter_map(|a| self.r.axis_named(&a.text)).collect();
            let wrong = wrong.union(self.wrong_axes);
            if aliases[..i].iter().any(|(l, _)| l.text == left.text) {
                self.error(
                    loc,
                    format!("axis `{left}` is declared twice"),
                    "an axis is an alias of one other axis",
                );
                self.wrong_axes = wrong;
                continue;
            }
            if left.text == time || right.text == time {
                self.error(
                    loc,
                    format!("the time axis `{time}` has no alias"),
                    "a value at an earlier step is `delay(x, k)`; what sums over time is a state",
                );
                self.wrong_axes = wrong;
                continue;
            }
            // Follow the chain to the axis that is no alias.
            let mut root = right;
            for _ in aliases {
                match aliases.iter().find(|(l, _)| l.text == root.text) {
                    Some((_, next)) => root = next,
                    None => break,
                }
            }
            if aliases.iter().any(|(l, _)| l.text == root.text) {
                self.wrong_axes = wrong;
                // Told once, at the first alias of the ring.
                if !aliases[..i].iter().any(|(l, _)| l.text == right.text) {
                    self.error(
                        loc,
                        format!("axis `{left}` is an alias of itself"),
                        "write `N2 = N`, where `N` is the axis of a parameter",
                    );
                }
                continue;
            }
            if let (Some(left), Some(root)) =
                (self.r.axis_named(&left.text), self.r.axis_named(&root.text))
            {
                self.r.axes[left.0 as usize].alias_of = Some(root);
            }
        }
    }

    fn axes_of(&mut self, ty: &Type) -> Vec<AxisId> {
        let mut axes = Vec::new();
        for name in &ty.axes {
            let Some(axis) = self.r.axis_named(&name.text) else {
                continue;
            };
            if axes.contains(&axis) {
                self.error(
                    name.loc,
                    format!("axis `{name}` stands twice in one tensor"),
                    format!("give the second one a name of its own, `{name}2`, and declare `#[ssm_kernel({name}2 = {name})]`"),
                );
                continue;
            }
            axes.push(axis);
        }
        axes
    }

    fn param(&mut self, param: &Param) {
        let (name, ty) = (&param.name, &param.ty);
        if self.binding(&name.text).is_some() {
            self.error(
                name.loc,
                format!("two parameters are called `{name}`"),
                "rename one of them",
            );
            return;
        }
        if functions::constant(&name.text).is_some() {
            self.error(
                name.loc,
                format!("`{name}` is a constant"),
                "choose another name",
            );
            self.bind(name.clone(), Meaning::Poison);
            return;
        }
        let axes = self.axes_of(ty);
        let declared = axes.len();
        let complex = ty.kind.is_complex();
        let text = name.text.clone();
        let meaning = match ty.kind {
            TypeKind::Error => Meaning::Poison,
            TypeKind::Tensor | TypeKind::Complex | TypeKind::Flag => {
                let kind = if ty.kind == TypeKind::Flag {
                    InputKind::Flag
                } else {
                    InputKind::Tensor
                };
                self.r.inputs.push(InputDecl {
                    name: text,
                    kind,
                    axes,
                    complex,
                    optional: ty.optional,
                });
                let repeated = declared < ty.axes.len();
                if repeated {
                    // Its elements are not those that are meant.
                    Meaning::Poison
                } else {
                    Meaning::Input(InputId(self.r.inputs.len() as u32 - 1))
                }
            }
            TypeKind::State | TypeKind::ComplexState => {
                if axes.contains(&self.r.time) {
                    let time = self.r.axis_name(self.r.time).to_owned();
                    self.error(
                        ty.loc,
                        format!("state `{name}` has the time axis `{time}`"),
                        format!("leave `{time}` out: a state's name is its value at one step"),
                    );
                }
                let init = self.init(param.init.as_ref());
                self.r.states.push(StateDecl {
                    name: text,
                    axes: axes.into_iter().filter(|&a| a != self.r.time).collect(),
                    complex,
                    reverse: self.backward || param.reverse.is_some(),
                    hidden: param.hidden.is_some(),
                    init,
                    update: NodeId(0),
                    update_im: None,
                });
                self.assigned.push(None);
                Meaning::State(StateId(self.r.states.len() as u32 - 1))
            }
        };
        self.bind(name.clone(), meaning);
    }

    /// The number in `#[init(…)]`.
    fn init(&mut self, init: Option<&Expr>) -> f64 {
        let Some(init) = init else { return 0.0 };
        let (sign, x) = match &init.kind {
            ExprKind::Neg(x) => (-1.0, x.as_ref()),
            _ => (1.0, init),
        };
        let value = match &x.kind {
            ExprKind::Number(x) => Some(*x),
            ExprKind::Name(name) => functions::constant(name),
            ExprKind::Error => return 0.0,
            _ => None,
        };
        let Some(value) = value else {
            self.error(
                init.loc,
                "an initial value is a number",
                "write `#[init(1)]`, or let the caller pass an initial state",
            );
            return 0.0;
        };
        sign * value
    }

    /// Every axis gets its extent from some input.
    fn extents(&mut self) {
        let kernel = self.kernel;
        if kernel.params.iter().any(|p| p.ty.kind == TypeKind::Error) || !self.syntax_is_right {
            return;
        }
        let mut known = self.wrong_axes;
        for axis in self.r.inputs.iter().flat_map(|i| &i.axes) {
            known = known.with(self.r.canonical(*axis));
        }
        let time = self.r.time;
        if !known.contains(time) {
            let loc = kernel
                .options
                .time
                .as_ref()
                .map_or(kernel.name.loc, |t| t.loc);
            let name = self.r.axis_name(time).to_owned();
            self.error(
                loc,
                format!("no input has the time axis `{name}`"),
                format!("declare an input `Tensor<B, {name}, D>`, or name the time axis: `#[ssm_kernel(time = T)]`"),
            );
            known = known.with(time);
            self.wrong_axes = self.wrong_axes.with(time);
        }
        let states = kernel.params.iter().filter(|p| p.ty.kind.is_state());
        let types: Vec<&Type> = states.map(|p| &p.ty).chain(&kernel.outputs).collect();
        let names = types.into_iter().flat_map(|ty| &ty.axes);
        let aliased = kernel.options.aliases.iter().map(|(left, _)| left);
        for name in names.chain(aliased) {
            let Some(axis) = self.r.axis_named(&name.text) else {
                continue;
            };
            let root = self.r.canonical(axis);
            if !known.contains(root) {
                known = known.with(root).with(axis);
                self.wrong_axes = self.wrong_axes.with(root).with(axis);
                self.error(
                    name.loc,
                    format!("no input has axis `{name}`, so that its extent is unknown"),
                    format!("give an input that axis, or declare `{name}` as an alias of another: `#[ssm_kernel({name} = N)]`"),
                );
            }
        }
    }

    /// Where a parameter stands.
    pub(super) fn place_of(&self, name: &str) -> Loc {
        let params = &self.kernel.params;
        params
            .iter()
            .find(|p| p.name.text == name)
            .map_or(self.kernel.name.loc, |p| p.name.loc)
    }
}
