//! Samples that are written once and said again and again, while what is in them grows older.
//!
//! It knows nothing of who says them: the monitor's own tests have it too.

use serde_json::Value;

/// Each `"from": N` in a sample becomes an age: N is the second in which something began.
pub fn aged(mut value: Value, now: f64) -> Value {
    match &mut value {
        Value::Object(fields) => {
            if let Some(from) = fields.remove("from").and_then(|from| from.as_f64()) {
                fields.insert("age".into(), (now - from).into());
            }
            for field in fields.values_mut() {
                *field = aged(field.take(), now);
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = aged(item.take(), now);
            }
        }
        _ => {}
    }
    value
}
