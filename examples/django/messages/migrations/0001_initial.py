import django.utils.timezone
from django.db import migrations, models


ID = models.BigAutoField(
    auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
)


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Message",
            fields=[
                ("id", ID.clone()),
                ("state", models.CharField(max_length=64)),
                ("city", models.CharField(max_length=128)),
                ("username", models.CharField(max_length=150)),
                ("text", models.TextField()),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
        ),
        migrations.CreateModel(
            name="OutboxEvent",
            fields=[
                ("id", ID.clone()),
                ("body", models.TextField()),
                ("refused", models.TextField(blank=True, db_default="")),
            ],
        ),
    ]
