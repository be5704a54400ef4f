import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;

/**
 * A Flink cluster in one process that runs jobs as Flink's SQL client would with {@code -i sources.sql -f JOB.sql}:
 *
 *     Flink FOLDER SQL-FOLDER NAME=VALUE… JOB…
 *
 * NAME=VALUE are put in for ${NAME}. Each job keeps its checkpoints in FOLDER/JOB and goes on from the newest there. It
 * says "job JOB ID" for each that was submitted, "running" when all run, and stands until it is killed.
 */
class Flink {
    public static void main(String[] args) {
        try {
            start(args);
        } catch (Exception e) { // the cluster's threads would keep the process alive
            e.printStackTrace();
            System.exit(1);
        }
    }

    private static void start(String[] args) throws Exception {
        Path folder = Path.of(args[0]), sql = Path.of(args[1]);
        Map<String, String> values = new TreeMap<>();
        List<String> jobs = new ArrayList<>();
        for (int i = 2; i < args.length; i++) {
            String[] pair = args[i].split("=", 2);
            if (pair.length == 2) {
                values.put(pair[0], pair[1]);
            } else {
                jobs.add(args[i]);
            }
        }
        Configuration cluster = Configuration.fromMap(Map.of(
            "rest.address", "127.0.0.1", "rest.bind-address", "127.0.0.1", "rest.bind-port", "0",
            "jobmanager.bind-host", "127.0.0.1", "taskmanager.bind-host", "127.0.0.1",
            "taskmanager.memory.network.min", "48m", "taskmanager.memory.network.max", "48m",
            "taskmanager.memory.managed.size", "64m", "taskmanager.memory.segment-size", "16k",
            "io.tmp.dirs", Files.createDirectories(folder.resolve("tmp")).toString()));
        MiniCluster mini = new MiniCluster(new MiniClusterConfiguration.Builder()
            .setConfiguration(cluster).setNumTaskManagers(1).setNumSlotsPerTaskManager(jobs.size()).build());
        mini.start();
        var rest = mini.getRestAddress().get();
        for (String job : jobs) {
            Path checkpoints = Files.createDirectories(folder.resolve(job));
            Map<String, String> settings = new TreeMap<>(Map.of(
                "execution.target", "remote", "rest.address", rest.getHost(), "rest.port", "" + rest.getPort(), "parallelism.default", "1",
                "execution.checkpointing.dir", checkpoints.toUri().toString(), "execution.checkpointing.storage", "filesystem"));
            String last = newest(checkpoints);
            if (last != null) {
                settings.put("execution.state-recovery.path", last);
                System.out.println("restore " + job + " " + last);
            }
            TableEnvironment tables = TableEnvironment.create(
                EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(Configuration.fromMap(settings)).build());
            for (String file : List.of("sources.sql", job + ".sql")) {
                for (String statement : statements(fill(Files.readString(sql.resolve(file)), values))) {
                    run(tables, job, file, statement);
                }
            }
        }
        System.out.println("running");
        Thread.sleep(Duration.ofHours(1).toMillis());
    }

    private static final Pattern SET = Pattern.compile("SET\\s+'([^']*)'\\s*=\\s*'([^']*)'");

    private static void run(TableEnvironment tables, String job, String file, String statement) {
        Matcher set = SET.matcher(statement);
        if (set.matches()) { // the one statement that is the client's
            tables.getConfig().set(set.group(1), set.group(2));
            return;
        }
        try {
            TableResult result = tables.executeSql(statement);
            result.getJobClient().ifPresent(client -> System.out.println("job " + job + " " + client.getJobID()));
        } catch (RuntimeException e) {
            throw new IllegalStateException(file + ": " + statement, e);
        }
    }

    private static String fill(String text, Map<String, String> values) {
        for (var value : values.entrySet()) {
            text = text.replace("${" + value.getKey() + "}", value.getValue());
        }
        return text;
    }

    /** Cuts a file at the semicolons that stand in no comment, string or name; comments are left out. */
    private static List<String> statements(String text) {
        List<String> all = new ArrayList<>();
        StringBuilder statement = new StringBuilder();
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (text.startsWith("--", i)) {
                int end = text.indexOf('\n', i);
                i = end < 0 ? text.length() : end - 1;
            } else if (c == '\'' || c == '`') {
                int end = text.indexOf(c, i + 1);
                statement.append(text, i, end + 1);
                i = end;
            } else if (c == ';') {
                all.add(statement.toString().strip());
                statement.setLength(0);
            } else {
                statement.append(c);
            }
        }
        if (!statement.toString().isBlank()) {
            all.add(statement.toString().strip());
        }
        return all;
    }

    /** The newest whole checkpoint below a folder, which has one of a name of its own for each start of a job. */
    private static String newest(Path folder) throws IOException {
        try (Stream<Path> files = Files.walk(folder)) {
            return files.filter(f -> f.getFileName().toString().equals("_metadata"))
                .max(Comparator.comparing(f -> f.toFile().lastModified())).map(f -> f.getParent().toUri().toString()).orElse(null);
        }
    }
}
