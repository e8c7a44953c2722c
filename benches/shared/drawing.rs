//! The strokes that the pictures are made of. Plain SVG with a background of its own, so that it
//! reads the same on a light page and on a dark one.

pub const INK: &str = "#1f2328";
pub const FAINT: &str = "#59636e";
pub const GRID: &str = "#d1d9e0";

pub struct Drawing(String);

impl Drawing {
    pub fn new(width: f64, height: f64, title: &str) -> Drawing {
        Drawing(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             role=\"img\" aria-labelledby=\"title\" font-family=\"system-ui, sans-serif\" \
             font-size=\"13\">\n<title id=\"title\">{title}</title>\n\
             <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#ffffff\"/>\n"
        ))
    }

    pub fn end(self) -> String {
        self.0 + "</svg>\n"
    }

    pub fn add(&mut self, element: &str) {
        self.0.push_str(element);
        self.0.push('\n');
    }

    /// Of the size of the drawing, and with no character that XML reads otherwise. `anchor`:
    /// start, middle or end.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: &str, colour: &str, words: &str) {
        self.add(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"
        ));
    }

    pub fn across(&mut self, (from, to): (f64, f64), y: f64) {
        self.add(&format!(
            "<path d=\"M{from} {y:.1}H{to}\" stroke=\"{GRID}\" stroke-width=\"1\"/>"
        ));
    }

    pub fn down(&mut self, x: f64, (from, to): (f64, f64)) {
        self.add(&format!(
            "<path d=\"M{x:.1} {from}V{to}\" stroke=\"{GRID}\" stroke-width=\"1\"/>"
        ));
    }

    pub fn dot(&mut self, (x, y): (f64, f64), colour: &str) {
        self.add(&format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"));
    }
}

/// Where a value lies between two others, all as powers of ten.
pub struct Decades {
    pub low: f64,
    pub high: f64,
    pub from: f64,
    pub to: f64,
}

impl Decades {
    pub fn at(&self, value: f64) -> f64 {
        let share = (value.log10() - self.low) / (self.high - self.low);
        self.from + share * (self.to - self.from)
    }
}

/// A power of ten of seconds.
pub fn decade(power: i32) -> String {
    let (unit, thousands) = match power {
        0.. => ("s", 0),
        -3..0 => ("ms", 3),
        _ => ("µs", 6),
    };
    format!("{} {unit}", 10_f64.powi(power + thousands))
}
