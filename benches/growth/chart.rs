//! The picture: rows across, time up, both logarithmic. Plain SVG with a background of its own, so
//! that it reads the same on a light page and on a dark one.

use std::time::Duration;

use crate::report::{Stage, duration, grouped};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 470.0;
/// The plot's sides. To its right stand the names of the lines.
const LEFT: f64 = 92.0;
const RIGHT: f64 = 548.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 404.0;
/// Between two names, at least.
const LABEL_GAP: f64 = 38.0;
/// Between the plot's sides and the first and last size.
const INSET: f64 = 18.0;

struct Line {
    name: &'static str,
    colour: &'static str,
    took: fn(&Stage) -> Duration,
}

const LINES: [Line; 4] = [
    Line { name: "manage rebuild, all sets", colour: "#8250df", took: |stage| stage.rebuild.took },
    Line {
        name: "count(DISTINCT), no index",
        colour: "#cf222e",
        took: |stage| stage.distinct.took,
    },
    Line { name: "GROUP BY, index there", colour: "#9a6700", took: |stage| stage.indexed.took },
    Line { name: "Redis SCARD", colour: "#0969da", took: |stage| stage.scard.0 },
];

/// Where a value lies between two others, all as powers of ten.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let share = (value.log10() - self.low) / (self.high - self.low);
        self.from + share * (self.to - self.from)
    }
}

pub fn svg(stages: &[Stage]) -> String {
    let times = || stages.iter().flat_map(|stage| LINES.iter().map(|line| (line.took)(stage)));
    let times = || times().map(|took| took.as_secs_f64());
    let y = Axis {
        low: times().fold(f64::MAX, f64::min).log10().floor(),
        high: times().fold(f64::MIN, f64::max).log10().ceil(),
        from: BOTTOM,
        to: TOP,
    };
    let sizes = || stages.iter().map(|stage| stage.rows as f64);
    let (low, high) = (sizes().fold(f64::MAX, f64::min), sizes().fold(f64::MIN, f64::max));
    // A single size has no extent.
    let x = Axis {
        low: low.log10(),
        high: high.log10().max(low.log10() + 0.1),
        from: LEFT + INSET,
        to: RIGHT - INSET,
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-labelledby=\"title\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <title id=\"title\">Time to count the distinct users of a growing table</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        (LEFT, 28.0),
        "start",
        "#1f2328",
        "Counting the distinct users of a growing table",
    );
    axes(&mut svg, &x, &y, stages);
    for line in &LINES {
        draw(&mut svg, &x, &y, line, stages);
    }
    labels(&mut svg, &y, stages);
    svg + "</svg>\n"
}

fn axes(svg: &mut String, x: &Axis, y: &Axis, stages: &[Stage]) {
    for power in y.low as i32..=y.high as i32 {
        let at = y.at(10_f64.powi(power));
        *svg += &format!(
            "<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#d1d9e0\" stroke-width=\"1\"/>\n"
        );
        text(svg, (LEFT - 8.0, at + 4.0), "end", "#59636e", &decade(power));
    }
    let mut free = f64::MIN;
    for stage in stages {
        let at = x.at(stage.rows as f64);
        *svg += &format!("<path d=\"M{at:.1} {BOTTOM}v5\" stroke=\"#59636e\"/>\n");
        // Eight pixels a digit: a size too near to the one before goes unnamed.
        let name = grouped(stage.rows);
        let half = name.len() as f64 * 4.0;
        if at - half > free {
            text(svg, (at, BOTTOM + 20.0), "middle", "#59636e", &name);
            free = at + half;
        }
    }
    let middle = f64::midpoint(LEFT, RIGHT);
    text(svg, (middle, BOTTOM + 46.0), "middle", "#59636e", "rows in Postgres (logarithmic)");
    let middle = f64::midpoint(TOP, BOTTOM);
    *svg += &format!(
        "<text transform=\"translate(18 {middle}) rotate(-90)\" text-anchor=\"middle\" \
         fill=\"#59636e\">time (logarithmic)</text>\n"
    );
}

fn draw(svg: &mut String, x: &Axis, y: &Axis, line: &Line, stages: &[Stage]) {
    let point = |stage: &Stage| (x.at(stage.rows as f64), y.at((line.took)(stage).as_secs_f64()));
    let colour = line.colour;
    let points: Vec<String> =
        stages.iter().map(point).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let points = points.join(" ");
    *svg += &format!(
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" \
         stroke-linejoin=\"round\"/>\n"
    );
    for (x, y) in stages.iter().map(point) {
        *svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>\n");
    }
}

/// Beside the lines' ends, pushed apart where those are close.
fn labels(svg: &mut String, y: &Axis, stages: &[Stage]) {
    let Some(last) = stages.last() else { return };
    let mut labels: Vec<(f64, &Line)> =
        LINES.iter().map(|line| (y.at((line.took)(last).as_secs_f64()), line)).collect();
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    // Downwards from the top; then up again from the bottom where that led out of the plot.
    for at in 1..labels.len() {
        labels[at].0 = labels[at].0.max(labels[at - 1].0 + LABEL_GAP);
    }
    let mut below = BOTTOM + LABEL_GAP / 2.0;
    for label in labels.iter_mut().rev() {
        label.0 = label.0.min(below - LABEL_GAP / 2.0);
        below = label.0 - LABEL_GAP / 2.0;
    }
    for (at, line) in labels {
        text(svg, (RIGHT + 10.0, at), "start", line.colour, line.name);
        let took = duration((line.took)(last));
        text(svg, (RIGHT + 10.0, at + 15.0), "start", line.colour, &took);
    }
}

/// Of the size of the drawing, and with no character that XML reads otherwise.
fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, colour: &str, words: &str) {
    *svg += &format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>\n"
    );
}

fn decade(power: i32) -> String {
    let (unit, thousands) = match power {
        0.. => ("s", 0),
        -3..0 => ("ms", 3),
        _ => ("µs", 6),
    };
    format!("{} {unit}", 10_f64.powi(power + thousands))
}
