package bench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.file.*;
import java.util.*;
import java.util.function.Function;
import java.util.stream.Collectors;

/** Results side by side, in Markdown: Table FILE. All runs count, disturbed ones too; how much else ran is a column of its own. */
public final class Table {
    static final String PEER = "kafka-streams", OURS = "millstream";

    /** One row: what is shown of a workload, and what is aimed at as ours to the peer's. */
    record Row(String workload, String field, String title, int digits, String aim) {}

    static final List<Row> ROWS = new ArrayList<>();

    static {
        for (String w : List.of("W1 count", "W2 join", "W3 dedup")) {
            ROWS.add(new Row(w, "records_per_s", "records/s", 0, ">= 3"));
            ROWS.add(new Row(w, "app_cpu_s_per_million", "CPU s per million", 2, "<= 0.25"));
            ROWS.add(new Row(w, "app_cpu_s_per_million_after_first", "the same without start-up", 2, ""));
            ROWS.add(new Row(w, "broker_cpu_s_per_million", "broker's CPU s per million", 2, ""));
            ROWS.add(new Row(w, "rss_peak_mb", "peak memory MiB", 0, ""));
        }
        for (String w : List.of("W4@100 latency", "W4@20 latency")) {
            ROWS.add(new Row(w, "p50_ms", "p50 ms", 1, ""));
            ROWS.add(new Row(w, "p99_ms", "p99 ms", 1, "<= 0.1"));
            ROWS.add(new Row(w, "max_ms", "max ms", 0, ""));
            ROWS.add(new Row(w, "app_cpu_cores", "CPU cores", 2, ""));
            ROWS.add(new Row(w, "broker_cpu_cores", "broker's CPU cores", 2, ""));
        }
        ROWS.add(new Row("W5 restore", "records_per_s", "records/s", 0, ">= 4"));
        ROWS.add(new Row("W5 restore", "restore_s", "s", 2, ""));
        ROWS.add(new Row("W5 restore", "app_cpu_s_per_million", "CPU s per million", 2, ""));
        ROWS.add(new Row("W5 restore", "rss_peak_mb", "peak memory MiB", 0, ""));
        ROWS.add(new Row("W6 footprint", "start_to_first_output_s", "start to first output s", 2, "<= 0.2"));
        ROWS.add(new Row("W6 footprint", "rss_peak_mb", "peak memory MiB", 0, "<= 0.2"));
        ROWS.add(new Row("W6 footprint", "rss_idle_mb", "idle memory MiB", 0, ""));
        ROWS.add(new Row("W6 footprint", "idle_cpu_cores", "idle CPU cores", 3, ""));
        ROWS.add(new Row("W6 footprint", "threads", "threads", 0, ""));
    }

    public static void main(String[] args) throws Exception {
        ObjectMapper json = new ObjectMapper();
        Map<String, List<JsonNode>> runs = new LinkedHashMap<>();
        for (String line : Files.readAllLines(Paths.get(args[0]))) {
            if (!line.startsWith("{")) continue;
            JsonNode run = json.readTree(line);
            String workload = run.path("workload").asText() + (run.has("commit_interval_ms") ? "@" + run.get("commit_interval_ms").asInt() : "");
            runs.computeIfAbsent(workload + "/" + run.path("app").asText(), x -> new ArrayList<>()).add(run);
        }
        List<String> floors = runs.keySet().stream().map(k -> k.substring(k.indexOf('/') + 1)).filter(a -> !a.equals(PEER) && !a.equals(OURS)).distinct().sorted().toList();
        System.out.print("| workload | | Kafka Streams | Millstream | ratio | aim |");
        floors.forEach(f -> System.out.print(" " + f + " |"));
        System.out.print("\n|---|---|---|---|---|---|" + "---|".repeat(floors.size()) + "\n");
        String last = "";
        for (Row row : ROWS) {
            String w = row.workload.split(" ")[0];
            Function<String, List<JsonNode>> of = app -> runs.getOrDefault(w + "/" + app, List.of());
            if (of.apply(PEER).isEmpty() && of.apply(OURS).isEmpty()) continue;
            double[] peer = values(of.apply(PEER), row.field), ours = values(of.apply(OURS), row.field);
            String ratio = peer.length == 0 || ours.length == 0 ? "" : number(median(ours) / median(peer), 2);
            String title = row.workload.equals(last) ? "" : row.workload;
            last = row.workload;
            System.out.print("| " + title + " | " + row.title + " | " + spread(peer, row.digits) + " | " + spread(ours, row.digits) + " | " + ratio + " | " + row.aim + " |");
            for (String f : floors) System.out.print(" " + spread(values(of.apply(f), row.field), row.digits) + " |");
            System.out.println();
        }
        System.out.println();
        long wrong = runs.values().stream().flatMap(List::stream).filter(x -> x.has("correct") && !x.path("correct").asBoolean()).count();
        long checked = runs.values().stream().flatMap(List::stream).filter(x -> x.has("correct")).count();
        System.out.println("Output checked in " + checked + " runs, wrong in " + wrong + ". Cores used by anything else meanwhile: " + others(runs) + ".");
    }

    static String others(Map<String, List<JsonNode>> runs) {
        return runs.entrySet().stream().filter(e -> values(e.getValue(), "other_cpu_cores").length > 0)
            .map(e -> e.getKey().replace("/", " ") + " " + spread(values(e.getValue(), "other_cpu_cores"), 2)).collect(Collectors.joining("; "));
    }

    static double[] values(List<JsonNode> runs, String field) {
        return runs.stream().filter(x -> x.path(field).isNumber()).mapToDouble(x -> x.get(field).asDouble()).sorted().toArray();
    }

    static double median(double[] v) { return v.length % 2 == 1 ? v[v.length / 2] : (v[v.length / 2 - 1] + v[v.length / 2]) / 2; }

    static String spread(double[] v, int digits) {
        if (v.length == 0) return "";
        String m = number(median(v), digits), a = number(v[0], digits), b = number(v[v.length - 1], digits);
        return a.equals(b) ? m : m + " (" + a + "-" + b + ")";
    }

    static String number(double v, int digits) { return String.format(Locale.ROOT, "%,." + digits + "f", v); }

    private Table() {}
}
