//! What a tuner measured, as a picture. In: trials, what the device allows. Out: the text of an SVG file.
//!
//! On the left every schedule that is right, the fastest first, against its time; on the right, on a GPU, the roofline:
//! exponentials a second over exponentials a byte, the roof that memory and the exponential unit make, and the fastest
//! schedule below it. All axes but that of the schedules are logarithmic.

use std::fmt::Write;

use selscan_codegen::{Algorithm, Order};
use selscan_runtime::{Schedule, Trial};

use super::floor::Floor;
use super::report::{percent, time};

/// Colours of the kinds of schedules, dark enough on white and told apart by the colour-blind (Okabe & Ito 2008).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];
/// The panels: left, top, width, height.
const SCHEDULES: Panel = Panel {
    x: 80.0,
    y: 60.0,
    width: 560.0,
    height: 360.0,
};
const ROOF: Panel = Panel {
    x: 740.0,
    y: 60.0,
    width: 300.0,
    height: 360.0,
};

/// A rectangle that is drawn in, y upwards, in logarithms where said.
#[derive(Clone, Copy)]
struct Panel {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Panel {
    /// The place of a point given as shares of width and height.
    fn at(self, x: f64, y: f64) -> (f64, f64) {
        (self.x + x * self.width, self.y + (1.0 - y) * self.height)
    }
}

/// Where a value lies between two others, by logarithms.
fn share(value: f64, (low, high): (f64, f64)) -> f64 {
    (value / low).ln() / (high / low).ln()
}

/// The kind of a schedule: algorithm and loop order.
fn kind(s: &Schedule) -> String {
    let algorithm = match s.algorithm {
        Algorithm::Sequential => "sequential",
        Algorithm::Chunked { .. } => "chunked",
    };
    format!("{algorithm} {}", order(s.order))
}

fn order(order: Order) -> String {
    order.to_string()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The picture.
pub fn svg(title: &str, trials: &[Trial], floor: Option<Floor>) -> String {
    let mut timed: Vec<(&Trial, f64)> = trials
        .iter()
        .filter_map(|t| Some((t, *t.outcome.as_ref().ok()?)))
        .collect();
    timed.sort_by(|a, b| a.1.total_cmp(&b.1));
    let roof = floor.filter(|f| f.specials > 0.0);
    let width = if roof.is_some() { 1080 } else { 680 };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"500\" viewBox=\"0 0 {width} 500\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(
        &mut out,
        (80.0, 28.0),
        "start",
        &format!("{title}: {} schedules", timed.len()),
    );
    if let (Some(first), Some(last)) = (timed.first(), timed.last()) {
        schedules(&mut out, &timed, (first.1, last.1), floor);
        if let Some(roof) = roof {
            roofline(&mut out, roof, first.1);
        }
    }
    out.push_str("</svg>\n");
    out
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    // Writing to a String can't fail, here and below.
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escaped(text)
    );
}

fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), style: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>"
    );
}

fn frame(out: &mut String, p: Panel) {
    let _ = writeln!(
        out,
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#888\"/>",
        p.x, p.y, p.width, p.height
    );
}

const GRID: &str = "stroke=\"#ddd\"";
const DASHED: &str = "stroke=\"#555\" stroke-dasharray=\"6 4\"";

/// Every schedule's time.
fn schedules(
    out: &mut String,
    timed: &[(&Trial, f64)],
    (best, worst): (f64, f64),
    floor: Option<Floor>,
) {
    let p = SCHEDULES;
    let least = floor.map_or(best, |f| f.seconds().min(best)).max(1e-12);
    let range = (least / 1.3, worst * 1.3);
    // 1, 2 and 5 times powers of ten.
    let mut power = 10f64.powf(range.0.log10().floor());
    while power <= range.1 {
        for tick in [1.0, 2.0, 5.0].map(|k| k * power) {
            if (range.0..=range.1).contains(&tick) {
                let y = share(tick, range);
                line(out, p.at(0.0, y), p.at(1.0, y), GRID);
                let (x, y) = p.at(0.0, y);
                text(out, (x - 6.0, y + 4.0), "end", &time(tick));
            }
        }
        power *= 10.0;
    }
    frame(out, p);
    if let Some(f) = floor {
        for (what, seconds) in [("memory", f.memory()), ("exponentials", f.special())] {
            if seconds >= range.0 {
                let y = share(seconds, range);
                line(out, p.at(0.0, y), p.at(1.0, y), DASHED);
                let (x, y) = p.at(1.0, y);
                text(
                    out,
                    (x - 4.0, y - 4.0),
                    "end",
                    &format!("floor by {what}, {}", time(seconds)),
                );
            }
        }
    }
    let mut kinds: Vec<String> = Vec::new();
    for (i, (trial, seconds)) in timed.iter().enumerate() {
        let kind = kind(&trial.schedule);
        let k = kinds
            .iter()
            .position(|other| *other == kind)
            .unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() - 1
            });
        let (x, y) = p.at(
            (i as f64 + 0.5) / timed.len() as f64,
            share(*seconds, range),
        );
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{}\"><title>{}: {}</title></circle>",
            COLOURS[k % COLOURS.len()],
            escaped(&trial.schedule.to_string()),
            time(*seconds)
        );
    }
    for (k, kind) in kinds.iter().enumerate() {
        let (x, y) = (
            p.x + (k % 4) as f64 * 150.0,
            p.y + p.height + 24.0 + (k / 4) as f64 * 18.0,
        );
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{}\"/>",
            y - 4.0,
            COLOURS[k % COLOURS.len()]
        );
        text(out, (x + 8.0, y), "start", kind);
    }
    let share = floor.map_or(String::new(), |f| {
        format!(", {} of the floor", percent(f.seconds() / best))
    });
    text(
        out,
        (p.x, p.y - 10.0),
        "start",
        &format!("the fastest: {}{share}", time(best)),
    );
}

/// What memory and the exponential unit allow, and how far below it the fastest schedule is.
fn roofline(out: &mut String, f: Floor, best: f64) {
    let p = ROOF;
    let (own, ridge) = (f.specials / f.bytes, f.rate / f.bandwidth);
    let xs = (own.min(ridge) / 8.0, own.max(ridge) * 8.0);
    let ys = (
        (xs.0 * f.bandwidth).min(f.specials / best / 2.0),
        f.rate * 3.0,
    );
    let at = |x: f64, y: f64| p.at(share(x, xs), share(y, ys).max(0.0));
    frame(out, p);
    let roof = "stroke=\"#d55e00\" stroke-width=\"2\"";
    line(out, at(xs.0, xs.0 * f.bandwidth), at(ridge, f.rate), roof);
    line(out, at(ridge, f.rate), at(xs.1, f.rate), roof);
    let allowed = f.specials / f.seconds();
    line(out, at(own, allowed), at(own, f.specials / best), DASHED);
    let (x, y) = at(own, f.specials / best);
    let _ = writeln!(
        out,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{}\"/>",
        COLOURS[0]
    );
    text(
        out,
        (x + 8.0, y + 4.0),
        "start",
        &percent(f.seconds() / best),
    );
    text(
        out,
        (p.x, p.y - 10.0),
        "start",
        "roofline: exponentials a second",
    );
    text(
        out,
        (p.x + p.width, p.y + p.height + 32.0),
        "end",
        "exponentials a byte",
    );
    let (x, y) = at(ridge, f.rate);
    text(
        out,
        (x, y - 8.0),
        "middle",
        &format!("{:.1} T/s", f.rate / 1e12),
    );
    let (x, y) = at(own, ys.0);
    text(out, (x, y + 14.0), "middle", &format!("{own:.2}"));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use selscan_runtime::Untimed;

    use super::*;

    fn trial(schedule: &str, outcome: Result<f64, Untimed>) -> Trial {
        Trial {
            stage: 0,
            schedule: schedule.parse().unwrap(),
            outcome,
        }
    }

    #[test]
    fn every_right_schedule_is_a_point() {
        let trials = [
            trial("sequential order=tiled", Ok(2e-4)),
            trial("chunked chunk=64 order=stepped", Ok(1e-4)),
            trial("sequential order=stepped", Err(Untimed::Slow(1.0))),
        ];
        let floor = Floor {
            bytes: 1e8,
            bandwidth: 4.8e12,
            specials: 1e8,
            rate: 4.2e12,
        };
        for floor in [
            None,
            Some(floor),
            Some(Floor {
                specials: 0.0,
                ..floor
            }),
        ] {
            let text = svg("scan <at> L=1", &trials, floor);
            assert!(
                text.starts_with("<svg ") && text.ends_with("</svg>\n"),
                "{text}"
            );
            assert!(text.contains("scan &lt;at&gt; L=1: 2 schedules"), "{text}");
            assert_eq!(text.matches("<title>").count(), 2, "{text}");
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            assert_eq!(
                text.contains("roofline"),
                floor.is_some_and(|f| f.specials > 0.0)
            );
        }
        assert!(svg("nothing", &[], None).contains("0 schedules"));
    }
}
