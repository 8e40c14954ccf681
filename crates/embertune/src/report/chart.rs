//! Charts as SVG without colours of their own: the page's style sheet maps the ones here to those of its light or dark theme.
//!
//! They are small, to be legible on a phone without being scaled down; a wide page puts several beside each other.

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Size in CSS pixels.
const SIZE: (u32, u32) = (380, 236);
const FONT_SIZE: i32 = 12;
/// What the style sheet knows as `#010101` and so on: words, grid, axis.
const WORDS: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const AXIS: RGBColor = RGBColor(3, 3, 3);
/// `#A10000`, `#A20000`, `#A30000`: the series.
const SERIES: [RGBColor; 3] = [RGBColor(0xA1, 0, 0), RGBColor(0xA2, 0, 0), RGBColor(0xA3, 0, 0)];

/// A line through points.
pub struct Line {
    /// What it is of.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// A chart of up to three lines; nothing where no line has two points. The place in the list decides how a line looks, so that a run looks
/// the same in all charts, also where the one before it has nothing to show.
pub fn lines(title: &str, x_label: &str, lines: &[Line]) -> Markup {
    let has_one = lines.len() == 1;
    let lines: Vec<_> = lines.iter().enumerate().filter(|(_, line)| line.points.len() > 1).collect();
    let all = || lines.iter().flat_map(|(_, line)| line.points.iter().copied());
    if lines.is_empty() {
        return html! {};
    }
    let (x, y) = (range(all().map(|(x, _)| x), 0.0), range(all().map(|(_, y)| y), 0.06));
    let drawn = draw(|area| {
        let mut chart = axes(area, x, y, x_label, Left::Numbers)?;
        for (place, line) in &lines {
            let color = SERIES[*place];
            chart.draw_series(LineSeries::new(line.points.iter().copied(), color.stroke_width(2)))?;
            // A handful of points are measurements; many are a curve.
            if line.points.len() <= 12 {
                chart.draw_series(line.points.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
            }
        }
        Ok(())
    });
    let words = lines.iter().map(|(_, line)| {
        let (first, last) = (line.points[0], line.points[line.points.len() - 1]);
        format!(
            "{} goes from {} at {} {} to {} at {}",
            line.name,
            short(first.1),
            x_label,
            short(first.0),
            short(last.1),
            short(last.0)
        )
    });
    // One line is what the title says.
    let names: Vec<_> = lines.iter().filter(|_| !has_one).map(|(place, line)| (*place, line.name.as_str())).collect();
    figure(title, &words.collect::<Vec<_>>().join("; "), &names, &drawn)
}

/// Two histograms over the same bars, as areas; `y_max` makes charts comparable.
pub fn histograms(
    title: &str,
    x_label: &str,
    from: f64,
    width: f64,
    of: [(&str, &[usize]); 2],
    y_max: usize,
) -> Markup {
    let n_bars = of[0].1.len();
    let at = |bar: usize| from + width * bar as f64;
    let drawn = draw(|area| {
        let mut chart = axes(area, (from, at(n_bars)), (0.0, y_max as f64 * 1.06), x_label, Left::Numbers)?;
        for ((_, counts), color) in of.iter().zip(SERIES) {
            let steps = counts.iter().enumerate().flat_map(|(bar, &n)| [(at(bar), n as f64), (at(bar + 1), n as f64)]);
            chart.draw_series(AreaSeries::new(steps, 0.0, color.mix(0.18)).border_style(color.stroke_width(2)))?;
        }
        Ok(())
    });
    let words = of.iter().map(|(name, counts)| {
        let most = (0..counts.len()).max_by_key(|&bar| counts[bar]).unwrap_or(0);
        format!("{name}: most between {} and {}", short(at(most)), short(at(most + 1)))
    });
    figure(title, &words.collect::<Vec<_>>().join("; "), &[(0, of[0].0), (1, of[1].0)], &drawn)
}

/// A name, a value, and the interval that it is in.
pub type Estimate = (String, f64, Option<(f64, f64)>);

/// Differences with their intervals, one below the other, and where 0 is.
pub fn intervals(title: &str, x_label: &str, of: &[Estimate]) -> Markup {
    let ends = of.iter().flat_map(|(_, value, interval)| interval.map_or([*value, *value], |(low, high)| [low, high]));
    let x = range(ends.chain([0.0]), 0.08);
    let place = |i: usize| (of.len() - 1 - i) as f64;
    let drawn = draw(|area| {
        let y = (-0.6, of.len() as f64 - 0.4);
        let mut chart = axes(area, x, y, x_label, Left::Names)?;
        chart.draw_series([PathElement::new(vec![(0.0, y.0), (0.0, y.1)], AXIS.stroke_width(1))])?;
        for (i, (name, value, interval)) in of.iter().enumerate() {
            if let Some((low, high)) = *interval {
                let line = PathElement::new(vec![(low, place(i)), (high, place(i))], SERIES[0].stroke_width(3));
                chart.draw_series([line])?;
            }
            chart.draw_series([Circle::new((*value, place(i)), 4, SERIES[0].filled())])?;
            let (_, y) = chart.backend_coord(&(0.0, place(i)));
            area.draw_text(name, &words().into_text_style(area).color(&WORDS), (4, y - 7))?;
        }
        Ok(())
    });
    let told = of.iter().map(|(name, value, interval)| match interval {
        Some((low, high)) => format!("{name} {value:+.3}, between {low:+.3} and {high:+.3}"),
        None => format!("{name} {value:+.3}"),
    });
    figure(title, &told.collect::<Vec<_>>().join("; "), &[], &drawn)
}

type Drawn<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The elements of the picture, without the `svg` around them.
fn draw(fill: impl Fn(&Drawn<'_>) -> Outcome) -> String {
    let mut text = String::new();
    let outcome = {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        fill(&area).and_then(|()| Ok(area.present()?))
    };
    outcome.expect("drawing into memory has nothing that fails");
    let inner = text.split_once("<svg").and_then(|(_, rest)| rest.split_once('>')).map_or("", |(_, inner)| inner);
    inner.trim_end().trim_end_matches("</svg>").trim().to_string()
}

fn words() -> FontDesc<'static> {
    ("sans-serif", FONT_SIZE).into_font()
}

/// What stands to the left of a chart.
#[derive(Clone, Copy, PartialEq)]
enum Left {
    /// The numbers of the vertical axis, with lines through the chart.
    Numbers,
    /// Room for names that the chart writes itself; the lines are those of the horizontal axis.
    Names,
}

/// An empty chart over two ranges, with its grid and labels.
fn axes<'a, 'b>(
    area: &'a Drawn<'b>,
    x: (f64, f64),
    y: (f64, f64),
    x_label: &str,
    left: Left,
) -> Result<Chart<'a, 'b>, Box<dyn std::error::Error>> {
    let (width, n_labels, tick) = match left {
        Left::Numbers => (50, 5, 4),
        Left::Names => (86, 0, 0),
    };
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_right(14)
        .x_label_area_size(34)
        .y_label_area_size(width)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    let style = words().color(&WORDS);
    let number = |value: &f64| short(*value);
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(AXIS)
        .x_labels(5)
        .y_labels(n_labels)
        .set_all_tick_mark_size(tick)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .x_desc(x_label)
        .label_style(style.clone())
        .axis_desc_style(style);
    match left {
        Left::Numbers => mesh.disable_x_mesh(),
        Left::Names => mesh.disable_y_mesh(),
    };
    mesh.draw()?;
    Ok(chart)
}

/// The values' range, wider by `margin` of it on both sides.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let room = match high - low {
        0.0 if high == 0.0 => return (-1.0, 1.0),
        // A constant is seen against 0.
        0.0 => return (1.06 * low.min(0.0), 1.06 * high.max(0.0)),
        span => span * margin,
    };
    (low - room, high + room)
}

/// A number in three digits.
pub fn short(value: f64) -> String {
    let magnitude = value.abs();
    let text = match magnitude {
        // What is left of a learning rate when a schedule comes to its end.
        m if m < 1e-12 => return "0".into(),
        m if m < 1e-3 => return trimmed(&format!("{value:.1e}"), "e"),
        m if m < 1.0 => format!("{value:.3}"),
        m if m < 10.0 => format!("{value:.2}"),
        m if m < 100.0 => format!("{value:.1}"),
        m if m < 1e4 => return format!("{value:.0}"),
        m if m < 1e6 => return trimmed(&format!("{:.1}k", value / 1e3), "k"),
        _ => return trimmed(&format!("{:.1}M", value / 1e6), "M"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// `2.0e-5` as `2e-5`.
fn trimmed(text: &str, unit: &str) -> String {
    text.replace(&format!(".0{unit}"), unit)
}

/// `names`: of the series, with their places in [`SERIES`].
fn figure(title: &str, told: &str, names: &[(usize, &str)], drawn: &str) -> Markup {
    html! {
        figure class="chart" {
            figcaption {
                strong { (title) }
                @if !names.is_empty() {
                    span class="legend" {
                        @for (place, name) in names {
                            span class={ "key key" (place + 1) } { (name) }
                        }
                    }
                }
            }
            svg viewBox={ "0 0 " (SIZE.0) " " (SIZE.1) } role="img" aria-label={ (title) ". " (told) "." } { (PreEscaped(drawn)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (2e-5, "2e-5"),
            (1.5e-5, "1.5e-5"),
            (0.25, "0.25"),
            (-0.5, "-0.5"),
            (2.0, "2"),
            (12.34, "12.3"),
            (123.4, "123"),
            (20_000.0, "20k"),
            (2_500_000.0, "2.5M"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn a_chart_tells_its_lines_in_words_and_names_no_address() {
        let line = |name: &str, last: f64| Line { name: name.into(), points: vec![(1.0, 4.0), (9.0, last)] };
        let chart = lines("Loss", "step", &[line("training", 2.0), line("held <out>", 3.0)]).into_string();
        assert!(chart.contains("training goes from 4 at step 1 to 2 at 9"), "{chart}");
        assert!(chart.contains("held &lt;out&gt;") && !chart.contains("://"), "{chart}");
        assert_eq!(chart.matches("<svg").count(), 1);
        assert_eq!(chart.matches("#A20000").count(), 1 + 2, "a line and its points");
        let point = Line { name: "one".into(), points: vec![(1.0, 1.0)] };
        assert_eq!(lines("Loss", "step", std::slice::from_ref(&point)).into_string(), "");
        let chart = lines("Loss", "step", &[point, line("second", 2.0)]).into_string();
        assert!(chart.contains("#A20000") && !chart.contains("#A10000"), "the second looks as beside the first");
    }
}
