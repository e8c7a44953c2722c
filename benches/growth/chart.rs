//! The picture: rows across, time up, both logarithmic.

use std::time::Duration;

use crate::report::Stage;
use crate::shared::drawing::{Decades, Drawing, FAINT, INK, decade};
use crate::shared::words::{duration, grouped};

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

pub fn svg(stages: &[Stage]) -> String {
    let times = || stages.iter().flat_map(|stage| LINES.iter().map(|line| (line.took)(stage)));
    let times = || times().map(|took| took.as_secs_f64());
    let y = Decades {
        low: times().fold(f64::MAX, f64::min).log10().floor(),
        high: times().fold(f64::MIN, f64::max).log10().ceil(),
        from: BOTTOM,
        to: TOP,
    };
    let sizes = || stages.iter().map(|stage| stage.rows as f64);
    let (low, high) = (sizes().fold(f64::MAX, f64::min), sizes().fold(f64::MIN, f64::max));
    // A single size has no extent.
    let x = Decades {
        low: low.log10(),
        high: high.log10().max(low.log10() + 0.1),
        from: LEFT + INSET,
        to: RIGHT - INSET,
    };
    let title = "Time to count the distinct users of a growing table";
    let mut svg = Drawing::new(WIDTH, HEIGHT, title);
    let heading = "Counting the distinct users of a growing table";
    svg.text((LEFT, 28.0), "start", INK, heading);
    axes(&mut svg, &x, &y, stages);
    for line in &LINES {
        draw(&mut svg, &x, &y, line, stages);
    }
    labels(&mut svg, &y, stages);
    svg.end()
}

fn axes(svg: &mut Drawing, x: &Decades, y: &Decades, stages: &[Stage]) {
    for power in y.low as i32..=y.high as i32 {
        let at = y.at(10_f64.powi(power));
        svg.across((LEFT, RIGHT), at);
        svg.text((LEFT - 8.0, at + 4.0), "end", FAINT, &decade(power));
    }
    let mut free = f64::MIN;
    for stage in stages {
        let at = x.at(stage.rows as f64);
        svg.add(&format!("<path d=\"M{at:.1} {BOTTOM}v5\" stroke=\"{FAINT}\"/>"));
        // Eight pixels a digit: a size too near to the one before goes unnamed.
        let name = grouped(stage.rows);
        let half = name.len() as f64 * 4.0;
        if at - half > free {
            svg.text((at, BOTTOM + 20.0), "middle", FAINT, &name);
            free = at + half;
        }
    }
    let middle = f64::midpoint(LEFT, RIGHT);
    svg.text((middle, BOTTOM + 46.0), "middle", FAINT, "rows in Postgres (logarithmic)");
    let middle = f64::midpoint(TOP, BOTTOM);
    svg.add(&format!(
        "<text transform=\"translate(18 {middle}) rotate(-90)\" text-anchor=\"middle\" \
         fill=\"{FAINT}\">time (logarithmic)</text>"
    ));
}

fn draw(svg: &mut Drawing, x: &Decades, y: &Decades, line: &Line, stages: &[Stage]) {
    let point = |stage: &Stage| (x.at(stage.rows as f64), y.at((line.took)(stage).as_secs_f64()));
    let colour = line.colour;
    let points: Vec<String> =
        stages.iter().map(point).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let points = points.join(" ");
    svg.add(&format!(
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" \
         stroke-linejoin=\"round\"/>"
    ));
    for at in stages.iter().map(point) {
        svg.dot(at, colour);
    }
}

/// Beside the lines' ends, pushed apart where those are close.
fn labels(svg: &mut Drawing, y: &Decades, stages: &[Stage]) {
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
        svg.text((RIGHT + 10.0, at), "start", line.colour, line.name);
        let took = duration((line.took)(last));
        svg.text((RIGHT + 10.0, at + 15.0), "start", line.colour, &took);
    }
}
