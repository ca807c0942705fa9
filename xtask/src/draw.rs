//! Draws the tables of traffic: how each network stands beside the line between two nodes, as an SVG for the README.

use std::fmt::Write;

/// What begins the head of a table that is drawn.
const HEAD: &str = "| pod to pod, ";
/// The columns that are drawn, counted behind the name of the row, and their colours.
const COLUMNS: [(usize, &str); 4] = [(1, "#9aa5b1"), (2, "#1f6feb"), (3, "#c9b27c"), (4, "#2da44e")];
/// Pixels.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 330.0;
const BAR: f64 = 9.0;
const GAP: f64 = 12.0;
/// The ratio at the right edge; longer bars end there.
const LONGEST: f64 = 3.0;

/// A table: its title, the names of its columns, and the rows with a ratio for each column.
struct Table<'a> {
    title: &'a str,
    columns: Vec<&'a str>,
    rows: Vec<(&'a str, Vec<f64>)>,
}

/// The drawing of every table of traffic in a text; None if there is none.
pub(crate) fn svg(text: &str) -> Option<String> {
    let tables = tables(text);
    let height = tables.iter().map(height_of).sum::<f64>() + GAP;
    let mut at = GAP;
    let mut inner = String::new();
    for table in &tables {
        draw(&mut inner, table, at);
        at += height_of(table);
    }
    let head = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    (!tables.is_empty()).then(|| head + &inner + "</svg>\n")
}

fn tables(text: &str) -> Vec<Table<'_>> {
    let mut tables: Vec<Table<'_>> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if line.starts_with(HEAD) {
            inside = true;
            let (title, columns) = cells.split_first().map_or(("", &[][..]), |(title, rest)| (*title, rest));
            tables.push(Table { title, columns: columns.to_vec(), rows: Vec::new() });
        } else if !line.starts_with('|') {
            inside = false;
        } else if let (true, Some(table), Some((name, cells))) =
            (inside, tables.last_mut(), cells.split_first())
            && !name.starts_with('-')
        {
            table.rows.push((name, cells.iter().map(|cell| number(cell)).collect()));
        }
    }
    tables
}

/// The number that a cell begins with.
fn number(cell: &str) -> f64 {
    cell.split([',', ' ']).next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

fn height_of(table: &Table<'_>) -> f64 {
    3.0 * GAP + 20.0 + table.rows.len() as f64 * (COLUMNS.len() as f64 * (BAR + 1.0) + GAP)
}

fn draw(out: &mut String, table: &Table<'_>, top: f64) {
    text(out, 10.0, top + 14.0, "start", &format!("{}: beside the line (1.0)", table.title));
    let mut x = LEFT;
    for (column, colour) in COLUMNS {
        let name = table.columns.get(column).copied().unwrap_or_default();
        rect(out, x, top + 22.0, BAR, BAR, colour);
        text(out, x + BAR + 4.0, top + 31.0, "start", name);
        x += 130.0;
    }
    let mut y = top + 20.0 + 2.0 * GAP;
    let bottom = top + height_of(table) - GAP;
    for (name, ratios) in &table.rows {
        let middle = y + COLUMNS.len() as f64 * (BAR + 1.0) / 2.0 + 4.0;
        text(out, LEFT - 8.0, middle, "end", name);
        for (column, colour) in COLUMNS {
            let ratio = ratios.get(column).copied().unwrap_or_default();
            let length = scale(ratio);
            rect(out, LEFT, y, length, BAR, colour);
            text(out, LEFT + length + 4.0, y + BAR, "start", &format!("{ratio:.2}"));
            y += BAR + 1.0;
        }
        y += GAP;
    }
    let x = LEFT + scale(1.0);
    let _ = writeln!(
        out,
        "<line x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{bottom}\" stroke=\"#555\" stroke-dasharray=\"3 3\"/>",
        top + 20.0 + GAP
    );
}

fn scale(ratio: f64) -> f64 {
    ratio.min(LONGEST) / LONGEST * (WIDTH - LEFT - 50.0)
}

fn rect(out: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# M\n\n| what | figure |\n|---|---|\n| a | 3 |\n\n\
        | pod to pod, ipv4 | the line | VXLAN by hand | vxlan | routes by hand | direct | A/A spread |\n\
        |---|---|---|---|---|---|---|\n\
        | TCP & more | 20.1 Gbit/s | 0.80 | 0.79, equal | 0.99 | 1.01, better by 6 % | 1.0 % |\n";

    #[test]
    fn only_traffic_is_drawn_with_its_ratios() {
        let svg = svg(TEXT).unwrap();
        for part in [">0.80<", ">0.79<", ">0.99<", ">1.01<", "TCP &amp; more", ">VXLAN by hand<"] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert_eq!(svg.matches("<rect").count(), 1 + 4 + 4);
    }

    #[test]
    fn nothing_to_draw_is_no_drawing() {
        assert!(svg("| a | b |\n|---|---|\n| c | 1 |\n").is_none());
    }
}
